"""Batched augmentation against image-by-image torchvision and plain slicing, for the same draws."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import horizontal_flip

from kd_lightning.data.augmentations import Augmentation, HorizontalFlip, RandomCrop, augment
from kd_lightning.errors import ConfigError
from kd_lightning.randomness import fold_in, integers, sample_keys, uniform

KEYS = sample_keys(0, 1, torch.arange(64))
IMAGES = torch.randint(0, 256, (64, 3, 10, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("images", [IMAGES, IMAGES.float() / 255])
@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("padding", [1, 4])
def test_crop_is_a_slice_of_the_padded_image(images: Tensor, mode: str, padding: int) -> None:
    cropped = RandomCrop(padding, mode)(images.clone(), KEYS)
    assert cropped.dtype == images.dtype
    down, right = integers(KEYS, 2 * padding + 1, 0), integers(KEYS, 2 * padding + 1, 1)
    assert {*down.tolist()} == {*right.tolist()} == {*range(2 * padding + 1)}
    for number, image in enumerate(images):
        kind = {"zero": "constant", "reflect": "reflect"}[mode]
        padded = F.pad(image[None].float(), [padding] * 4, mode=kind)[0].to(images.dtype)
        top, left = int(down[number]), int(right[number])
        assert torch.equal(cropped[number], padded[:, top : top + 10, left : left + 12])


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
def test_flip_is_torchvisions_for_the_share_that_is_drawn(probability: float) -> None:
    flipped = HorizontalFlip(probability)(IMAGES.clone(), KEYS)
    drawn = uniform(KEYS) < probability
    for before, after, turn in zip(IMAGES, flipped, drawn, strict=True):
        assert torch.equal(after, horizontal_flip(before) if turn else before)
    many = uniform(sample_keys(0, 0, torch.arange(100_000))) < probability
    assert many.float().mean().item() == pytest.approx(probability, abs=0.01)


def test_an_image_is_augmented_alike_in_any_batch() -> None:
    steps: list[Augmentation] = [RandomCrop(3), HorizontalFlip(), RandomCrop(1, "reflect")]
    whole = augment(IMAGES.clone(), KEYS, steps)
    for size in (1, 7, 64):
        parts = [augment(i, k, steps) for i, k in zip(IMAGES.clone().split(size), KEYS.split(size), strict=True)]
        assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(augment(IMAGES.clone(), sample_keys(0, 2, torch.arange(64)), steps), whole)
    assert torch.equal(augment(IMAGES.clone(), KEYS, []), IMAGES)


def test_each_step_draws_for_itself() -> None:
    twice = augment(IMAGES.clone(), KEYS, [HorizontalFlip(), HorizontalFlip()])
    first, second = (uniform(fold_in(KEYS, place)) < 0.5 for place in (0, 1))
    assert (first != second).any()
    assert torch.equal(twice, torch.where((first != second)[:, None, None, None], IMAGES.flip(-1), IMAGES))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="padding: 0"):
        RandomCrop(0)
    with pytest.raises(ConfigError, match=r"probability: 1\.5"):
        HorizontalFlip(1.5)
