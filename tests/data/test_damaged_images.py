"""Damaged and odd image files from a fuzzer: each is read, or named as unreadable; nothing else happens."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from random import Random

import pytest
import torch
from helpers.damaged_images import damaged_image, whole_images

from kd_lightning.data.augmentations import RandomResizedCrop
from kd_lightning.data.decode import dimensions, levels, open_rgb
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.formats import UnreadableError
from kd_lightning.data.hub import RowNames
from kd_lightning.errors import ConfigError

MOST_PIXELS = 1 << 20
"""Only the header of larger images is read, because their pixels take seconds."""


class Damaged(Sequence):
    """Damaged images, each a function of its number."""

    def __init__(self, numbers: range) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, row: int) -> bytes:
        return damaged_image(Random(self.numbers[row]))

    @property
    def names(self) -> RowNames:
        return RowNames(torch.tensor(self.numbers))


def read(numbers: range) -> Counter:
    """Read the images as a run does, by the centre and by random crops, and count how many can be read."""
    images = EncodedImages(Damaged(numbers), torch.zeros(len(numbers), dtype=torch.int64), 6)
    crops, counts = images.cropped(RandomResizedCrop(), 2), Counter()
    for row, number in enumerate(numbers):
        source = images.sources[row]
        reason, large = "", False
        try:
            width, height = dimensions(source)
            large = width * height > MOST_PIXELS
            assert large or open_rgb(source).size == (width, height)
        except UnreadableError as error:
            reason = str(error)
            assert reason
        with suppress(UnreadableError):
            assert large or levels(source).highest <= 65535
        for part in () if large else (images, crops):
            message = ""
            try:
                assert part.take(torch.tensor([row])).images.shape == (1, 3, 6, 6)
            except ConfigError as error:
                message = str(error)
            expected = f"data.path: row {number} cannot be read as an image (" if reason else ""
            assert message.startswith(expected)
            assert bool(message) == bool(reason)
            assert "\n" not in message
        counts["large" if large else "unreadable" if reason else "read"] += 1
    return counts


def test_whole_images_are_read_but_for_floats() -> None:
    counts = Counter()
    for source in whole_images():
        try:
            counts[open_rgb(source).size] += 1
        except UnreadableError as error:
            counts[str(error)] += 1
    assert [reason for reason in counts if str(reason).startswith("its pixels are floating-point numbers")]
    assert {*counts} >= {(7, 5), (5, 7)}
    assert len(counts) == 3


def test_a_damaged_image_is_read_or_named() -> None:
    counts = read(range(300))
    assert counts["read"] > 60
    assert counts["unreadable"] > 60


@pytest.mark.slow
@pytest.mark.parametrize("part", range(50))
def test_of_100_000_damaged_images_each_is_read_or_named(part: int) -> None:
    counts = read(range(2_000 * part, 2_000 * (part + 1)))
    assert counts["read"] > 400
    assert counts["unreadable"] > 400
