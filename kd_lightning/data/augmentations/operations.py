"""Operations of automatic augmentation for float images N,3,H,W in [0, 1], with one parameter per image."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from kd_lightning.data.augmentations import color


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep only the highest `bits` of the 8 bits of each value."""
    step = 2.0 ** (8 - bits)[:, None, None, None]
    return torch.floor((images * 255).round() / step) * step / 255


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert values at or above the threshold (0 to 1)."""
    return torch.where(images >= threshold[:, None, None, None] - 1e-6, 1 - images, images)


def solarize_add(images: Tensor, added: Tensor) -> Tensor:
    """Add a value to pixels below 0.5."""
    return torch.where(images * 255 < 127.5, (images + added[:, None, None, None]).clamp_(max=1), images)


def auto_contrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to the full range."""
    return tv.autocontrast(images)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Equalise each channel's histogram."""
    return tv.equalize((images * 255).round().to(torch.uint8)).float() / 255


def invert(images: Tensor, _: Tensor) -> Tensor:
    return 1 - images


def identity(images: Tensor, _: Tensor) -> Tensor:
    return images


def _shear_x(amount: Tensor, height: int, width: int) -> Tensor:
    return _matrix(b=amount)


def _shear_y(amount: Tensor, height: int, width: int) -> Tensor:
    return _matrix(d=amount)


def _translate_x(pixels: Tensor, height: int, width: int) -> Tensor:
    return _matrix(c=-pixels)


def _translate_y(pixels: Tensor, height: int, width: int) -> Tensor:
    return _matrix(f=-pixels)


def _rotate(degrees: Tensor, height: int, width: int) -> Tensor:
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    x, y = width / 2, height / 2
    return _matrix(a=cos, b=-sin, c=x - cos * x + sin * y, d=sin, e=cos, f=y - sin * x - cos * y)


def _matrix(**entries: Tensor) -> Tensor:
    """Return maps N,2,3 from a pixel of the result to its source. Missing entries are those of the identity."""
    first = next(iter(entries.values()))
    default = {"a": 1.0, "e": 1.0}
    rows = [entries.get(name, torch.full_like(first, default.get(name, 0.0))) for name in "abcdef"]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def warp(
    images: Tensor,
    amount: Tensor,
    matrix: Callable[[Tensor, int, int], Tensor],
    mode: str = "nearest",
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Tensor:
    """Apply an affine map to images. Pixels from outside the image get a fill colour.

    Args:
        images: Images N,3,H,W.
        amount: Parameters N of the map.
        matrix: Function that returns the map N,2,3 in pixels for the parameters, the height and the width of the
            images.
        mode: Interpolation: nearest, bilinear or bicubic.
        fill: Colour of pixels from outside the image.
    """
    height, width = images.shape[-2:]
    theta = matrix(amount.float(), height, width)
    x = (torch.arange(width, device=images.device) + 0.5).expand(height, width)
    y = (torch.arange(height, device=images.device) + 0.5)[:, None].expand(height, width)
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(1, -1, 3)
    source = torch.bmm(points.expand(len(images), -1, -1), theta.transpose(1, 2)).view(-1, height, width, 2)
    source = source * torch.tensor([2 / width, 2 / height], device=images.device) - 1
    colour = torch.tensor(fill, device=images.device)[:, None, None]
    moved = F.grid_sample(images - colour, source, mode=mode, padding_mode="zeros", align_corners=False) + colour
    return moved.clamp_(0, 1)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Identity": identity,
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Posterize": posterize,
    "Solarize": solarize,
    "SolarizeAdd": solarize_add,
    "Color": color.saturation,
    "Contrast": color.contrast,
    "Brightness": color.brightness,
    "Sharpness": color.sharpness,
}
WARPS: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "Rotate": _rotate,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
}


def table(mode: str, fill: tuple[float, float, float]) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return all operations by name. Operations that move pixels use this interpolation mode and fill colour."""
    return OPERATIONS | {name: partial(warp, matrix=m, mode=mode, fill=fill) for name, m in WARPS.items()}
