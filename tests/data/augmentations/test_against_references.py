"""Every operation against torchvision's or timm's own, image by image, with the same parameters."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_ops
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from kd_lightning.data.augmentations import RandAugment, TimmRandAugment, TrivialAugment, color
from kd_lightning.data.augmentations.geometry import resize_boxes
from kd_lightning.data.augmentations.operations import table
from kd_lightning.randomness import sample_keys

LEVEL = 1 / 255
COUNT = 6


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Smooth colours with edges, uint8: noise alone would hide a wrong interpolation."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand((COUNT, 3, 6, 6), generator=generator)
    large = tv.resize(small, [32, 32], antialias=False)
    large[:, :, 8:14, 10:20] = torch.rand((COUNT, 3, 1, 1), generator=generator)
    return (large * 255).round().to(torch.uint8)


def tolerance(name: str) -> float:
    """One level; two where the references round what they blend with to whole levels, and the result once more."""
    return (2.01 if name in ("Color", "Contrast", "Sharpness") else 1.01) * LEVEL


def pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def levels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (color.brightness, tv.adjust_brightness, (0.0, 0.4, 1.0, 1.7)),
        (color.contrast, tv.adjust_contrast, (0.0, 0.4, 1.0, 1.7)),
        (color.saturation, tv.adjust_saturation, (0.0, 0.4, 1.0, 1.7)),
        (color.sharpness, tv.adjust_sharpness, (0.0, 0.4, 1.0, 1.7)),
        (color.hue, tv.adjust_hue, (-0.5, -0.1, 0.0, 0.03, 0.4)),
        (lambda x, s: color.blur(x, s, 23), lambda x, s: tv.gaussian_blur(x, [23, 23], [s, s]), (0.1, 0.7, 2.0)),
    ],
)
def test_colours_are_torchvisions(
    photos: Tensor, ours: Callable[..., Tensor], theirs: Callable[..., Tensor], values: tuple[float, ...]
) -> None:
    images = photos.float() / 255
    for value in values:
        expected = torch.stack([theirs(image, value) for image in images])
        torch.testing.assert_close(ours(images.clone(), torch.full((COUNT,), value)), expected, atol=2e-5, rtol=0)
    mixed = torch.tensor([values[n % len(values)] for n in range(COUNT)])  # a parameter for each image
    expected = torch.stack([theirs(image, float(value)) for image, value in zip(images, mixed, strict=True)])
    torch.testing.assert_close(ours(images.clone(), mixed), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 32, 50])
@pytest.mark.parametrize("box", [(0, 0, 32, 32), (3, 5, 30, 28), (10, 2, 17, 13), (31, 31, 32, 32)])
def test_cut_and_resized_as_torchvision_does(photos: Tensor, interpolation: str, size: int, box: tuple) -> None:
    left, top, right, bottom = box
    mode = v2.InterpolationMode(interpolation)
    ours = resize_boxes(photos.float() / 255, torch.tensor([box] * COUNT).float(), size, interpolation)
    exact = tv.resized_crop(
        photos.float() / 255, top, left, bottom - top, right - left, [size, size], mode, antialias=True
    ).clamp(0, 1)
    torch.testing.assert_close(ours, exact, atol=1e-5, rtol=0)
    for image, own in zip(photos, ours, strict=True):  # and as Pillow, which rounds after each of two passes
        resample = Image.Resampling[interpolation.upper()]
        cut = levels(pil(image).crop(box).resize((size, size), resample))
        assert ((cut - own).abs() <= 1.6 * LEVEL).float().mean() >= (1 if interpolation == "bilinear" else 0.99)


@pytest.mark.parametrize("policy", [RandAugment, TrivialAugment])
@pytest.mark.parametrize("name", RandAugment.names)
def test_automatic_operations_are_torchvisions(photos: Tensor, policy: type, name: str) -> None:
    ours = policy()
    reference = {RandAugment: v2.RandAugment, TrivialAugment: v2.TrivialAugmentWide}[policy]()
    assert set(ours.names) == set(reference._AUGMENTATION_SPACE)
    magnitudes, signed = reference._AUGMENTATION_SPACE[name]
    steps = magnitudes(31, 32, 32)
    images = photos.float() / 255
    for step in (0, 9, 30) if steps is not None else (0,):
        for sign in (1, -1) if signed else (1,):
            expected = reference._apply_image_or_video_transform(
                photos, name, float(steps[step]) * sign if steps is not None else 0.0, v2.InterpolationMode.NEAREST, {}
            )
            amount = ours.amount(name, torch.full((COUNT,), step / 30), torch.full((COUNT,), sign), 32, 32)
            result = ours.operations[name](images.clone(), amount)
            differs = (result - expected.float() / 255).abs() > tolerance(name)
            # rounding decides which pixel is nearest where a rotated grid falls between two
            assert differs.float().mean() <= (0.02 if name in ("Rotate", "ShearX", "ShearY") else 0), (step, sign)


TIMM = {"AutoContrast": "AutoContrast", "Equalize": "Equalize", "Invert": "Invert", "SolarizeAdd": "SolarizeAdd"}
TIMM |= {
    name: f"{name}Increasing" for name in ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
}


@pytest.mark.parametrize(("name", "theirs"), TIMM.items())
@pytest.mark.parametrize("level", [0.0, 4.0, 9.0, 10.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_timms_operations(
    photos: Tensor, name: str, theirs: str, level: float, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm_ops, "_randomly_negate", lambda value: sign * value)
    assert theirs in timm_ops._RAND_INCREASING_TRANSFORMS
    to_argument = timm_ops.LEVEL_TO_ARG[theirs]
    arguments = to_argument(level, {}) if to_argument else ()
    arguments = arguments if isinstance(arguments, tuple) else (arguments,)
    ours = TimmRandAugment()
    amount = ours.amount(name, torch.full((COUNT,), level / 10), torch.full((COUNT,), sign), 32, 32)
    result = ours.operations[name](photos.float() / 255, amount)
    if arguments == (0,) and name == "Posterize":  # all bits gone; Pillow 12 and later refuse it
        expected = torch.zeros_like(result)
    else:
        expected = torch.stack([levels(timm_ops.NAME_TO_OP[theirs](pil(image), *arguments)) for image in photos])
    assert (result - expected).abs().max() <= tolerance(name)


@pytest.mark.parametrize(
    ("name", "theirs", "level"),
    [("Rotate", "Rotate", 9.0), ("ShearX", "ShearX", 9.0), ("ShearY", "ShearY", 5.0)]
    + [("TranslateX", "TranslateXRel", -9.0), ("TranslateY", "TranslateYRel", -5.0)],
)
def test_timms_warps(photos: Tensor, name: str, theirs: str, level: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the image: at the border timm's Pillow mixes the filling in another way."""
    monkeypatch.setattr(timm_ops, "_randomly_negate", lambda value: value)
    (argument,) = timm_ops.LEVEL_TO_ARG[theirs](abs(level), {})
    amount = TimmRandAugment().amount(name, torch.full((COUNT,), abs(level) / 10), torch.ones(COUNT), 32, 32)
    moved = table("bilinear", (0.0, 0.0, 0.0))[name](photos.float() / 255, amount * (1 if level > 0 else -1))
    kwargs = {"resample": Image.Resampling.BILINEAR}
    expected = torch.stack([levels(timm_ops.NAME_TO_OP[theirs](pil(image), argument, **kwargs)) for image in photos])
    inside = (moved > 0) & (expected > 0)
    assert inside.float().mean() > 0.4
    assert ((moved - expected).abs()[inside] <= 1.6 * LEVEL).float().mean() > 0.95


def test_each_image_gets_its_own_operation() -> None:
    photos = torch.rand((200, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    keys = sample_keys(0, 0, torch.arange(200))
    for policy in (RandAugment(num_ops=1), TrivialAugment(), TimmRandAugment(num_ops=1)):
        result = policy(photos.clone(), keys)
        together = torch.cat([policy(p, k) for p, k in zip(photos.clone().split(7), keys.split(7), strict=True)])
        torch.testing.assert_close(result, together, atol=1e-6, rtol=0)
        changed = (result != photos).flatten(1).any(dim=1).float().mean()
        expected = {"RandAugment": 13 / 14, "TrivialAugment": 12.5 / 14, "TimmRandAugment": 0.5}[type(policy).__name__]
        assert changed.item() == pytest.approx(expected, abs=0.11)
