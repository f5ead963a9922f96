"""What holds for every corruption: a function of image, key and severity alone, for all sides and kinds of images."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from kd_lightning.evaluation.corruptions.frost import ice
from kd_lightning.randomness import sample_keys

FIXED = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
# the published constants themselves do not grow from one severity to the next, or random weights outdo them
UNEVEN = {"glass_blur", "motion_blur", "frost", "elastic_transform"}


def keys(count: int, first: int = 0) -> Tensor:
    return sample_keys(0, 0, torch.arange(first, first + count))


@cache
def photographs(side: int, count: int) -> Tensor:
    """Pieces of scikit-learn's two photographs, N,3,side,side uint8."""
    pieces = []
    for number in range(count):
        picture = Image.fromarray(load_sample_image(("china.jpg", "flower.jpg")[number % 2]))
        left, top = 37 * number % 400, 53 * number % 200
        pieces.append(np.array(picture.crop((left, top, left + 224, top + 224)).resize((side, side))))
    return torch.from_numpy(np.stack(pieces)).permute(0, 3, 1, 2).contiguous()


def test_there_are_the_15_of_the_paper() -> None:
    assert len(CORRUPTIONS) == 15
    assert SEVERITIES == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_result_depends_on_neither_batch_nor_order(name: str) -> None:
    images, own = photographs(32, 50), keys(50)  # more than are computed at a time
    before = images.clone()
    for severity in (1, 4):
        together = corrupt(images, own, name, severity)
        assert torch.equal(together, corrupt(images, own, name, severity))
        order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
        assert torch.equal(together[order], corrupt(images[order], own[order], name, severity))
        alone = torch.cat([corrupt(images[n : n + 1], own[n : n + 1], name, severity) for n in (0, 7, 49)])
        assert torch.equal(together[[0, 7, 49]], alone)
        assert not torch.equal(together, images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_keys_and_severities_draw_for_themselves(name: str) -> None:
    images = photographs(32, 1).expand(2, -1, -1, -1)
    first, second = corrupt(images, keys(2), name, 3)
    assert torch.equal(first, second) == (name in FIXED)
    results = [corrupt(images[:1], keys(1), name, severity) for severity in SEVERITIES]
    assert all(not torch.equal(a, b) for a, b in pairwise(results))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(8, 8), (9, 13), (32, 32), (48, 40), (64, 64), (224, 224)])
def test_all_sides_and_float_images(name: str, shape: tuple[int, int]) -> None:
    images = photographs(max(shape), 2)[:, :, : shape[0], : shape[1]]
    for severity in (1, 5) if max(shape) < 100 else (5,):
        corrupted = corrupt(images, keys(2), name, severity)
        assert corrupted.dtype == torch.uint8
        assert corrupted.shape == images.shape
        between_levels = (images.float() - 0.3).clamp(min=0) / 255
        assert torch.equal(corrupted, corrupt(between_levels, keys(2), name, severity))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("level", [0, 77, 255])
def test_images_of_one_colour(name: str, level: int) -> None:
    images = torch.full((3, 3, 32, 32), level, dtype=torch.uint8)
    for severity in (1, 2, 5):
        corrupted = corrupt(images, keys(3), name, severity)
        if name.endswith("blur") or name in ("contrast", "elastic_transform", "pixelate"):
            assert torch.equal(corrupted, images)
        if name == "fog" and level == 0:
            assert (corrupted == 0).all()  # no light, no fog: it is scaled to the image's brightest value


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_grows(name: str, side: int) -> None:
    images = photographs(side, 24)
    damage = [(corrupt(images, keys(len(images)), name, s).float() - images).square().mean() for s in SEVERITIES]
    if name in UNEVEN:  # elastic_transform starts with its widest moves
        assert name == "elastic_transform" or damage[-1] > damage[0]
    else:
        assert all(more > less for less, more in pairwise(damage)), damage


def test_other_sides_take_the_constants_of_the_nearest_scale() -> None:
    for side, severity, photons in ((8, 1, 500), (44, 1, 500), (46, 1, 250), (118, 1, 250), (121, 1, 60), (300, 1, 60)):
        gray = torch.full((1, 3, side, side), 128, dtype=torch.uint8)
        noisy = corrupt(gray, keys(1), "shot_noise", severity).double()
        levels = {int(255 * k / photons + 1e-9) for k in range(photons + 1)}
        assert set(noisy.unique().long().tolist()) <= levels
        assert noisy.var() == pytest.approx(255 * 128 / photons, rel=0.5)


def test_frost_is_as_bright_as_the_photographs() -> None:
    panes = ice(keys(64), 32, 32)
    brightness, contrast = panes.mean(dim=(1, 2, 3)), panes.mean(dim=1).flatten(1).std(dim=1)
    assert 0.45 < brightness.min() < 0.55
    assert 0.75 < brightness.max() < 0.85
    assert 0.07 < contrast.min() < contrast.max() < 0.18
    assert (panes[:, 2].mean(dim=(1, 2)) > panes[:, 0].mean(dim=(1, 2))).all()  # bluish


def test_no_images() -> None:
    empty = torch.empty(0, 3, 32, 32)
    corrupted = corrupt(empty, keys(0), "fog", 1)
    assert corrupted.shape == empty.shape
    assert corrupted.dtype == torch.uint8


def test_refusals() -> None:
    images = photographs(32, 1)
    with pytest.raises(ConfigError, match=r"no corruption 'gausian_noise'; nearest: gaussian_noise"):
        corrupt(images, keys(1), "gausian_noise", 1)
    for severity, close in ((0, 1), (6, 5), (2.5, 2)):
        with pytest.raises(ConfigError, match=f"severity: {severity} .* nearest: {close}"):
            corrupt(images, keys(1), "fog", severity)
    with pytest.raises(ConfigError, match="7x7 pixels"):
        corrupt(images[:, :, :7, :7], keys(1), "fog", 1)
