"""Weather and light: snow, fog and brightness."""

import torch
from torch import Tensor

from kd_lightning.data.augmentations.base import between
from kd_lightning.evaluation.corruptions import filters
from kd_lightning.evaluation.corruptions.base import at_pixels, constants, levels
from kd_lightning.evaluation.corruptions.blur import moving
from kd_lightning.randomness import named_key, normal, uniform

_SMALL_SNOW = [
    (0.1, 0.2, 1, 0.6, 8, 3),
    (0.1, 0.2, 1, 0.5, 10, 4),
    (0.15, 0.3, 1.75, 0.55, 10, 4),
    (0.25, 0.3, 2.25, 0.6, 12, 6),
    (0.3, 0.3, 1.25, 0.65, 14, 12),
]
SNOW = {
    32: [(*c, keep) for c, keep in zip(_SMALL_SNOW, (0.95, 0.9, 0.9, 0.85, 0.8), strict=True)],
    64: [(*c, keep) for c, keep in zip(_SMALL_SNOW, (0.8, 0.8, 0.7, 0.65, 0.6), strict=True)],
    224: [
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ],
}
"""Seven constants: mean and standard deviation of the noise of the flakes, zoom factor of the noise, threshold of a
flake, radius and sigma of the motion blur in pixels, and the share of the image that is not whitened."""
FOG = {
    32: [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
    64: [(0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)],
    224: [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
}
"""Thickness of the fog (white is 1), and decay of the roughness of the fractal."""
_BRIGHTER = [0.1, 0.2, 0.3, 0.4, 0.5]
BRIGHTNESS = {32: [0.05, 0.1, 0.15, 0.2, 0.3], 64: _BRIGHTER, 224: _BRIGHTER}
"""Increase of HSV's value."""


def snow(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Whiten the image, add flakes, and add the same flakes rotated by 180 degrees.

    The flakes are values above a threshold in enlarged normal noise. They are blurred as in `motion_blur`, in a
    direction at most 45 degrees from the vertical.
    """
    mean, deviation, factor, threshold, radius, sigma, keep = constants(SNOW, images, severity)
    noise = at_pixels(normal, keys, (1, *images.shape[2:])).double().mul_(deviation).add_(mean)
    flakes = filters.zoom(noise, factor)
    flakes = levels(torch.where(flakes < threshold, 0.0, flakes) * 255)
    flakes = moving(flakes.float(), between(named_key(keys, "angle"), -135, -45), radius, sigma)
    flakes = levels(flakes + 0.5).double()
    image = images.double()
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64, device=images.device)
    gray = (image * weights[:, None, None]).sum(dim=1, keepdim=True)
    white = torch.maximum(image, gray * 1.5 + 127.5)
    return levels(keep * image + (1 - keep) * white + flakes + flakes.flip(2, 3))


def fog(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Add a plasma fractal, and darken the sum so that the brightest value of the image does not change."""
    thickness, decay = constants(FOG, images, severity)
    height, width = images.shape[-2:]
    image = images.double()
    brightest = image.amax(dim=(1, 2, 3), keepdim=True)
    thick = plasma(keys, max(height, width), decay)[:, None, :height, :width] * (255 * thickness)
    return levels((image + thick) * brightest / (brightest + 255 * thickness))


def plasma(keys: Tensor, side: int, decay: float) -> Tensor:
    """Return diamond-square fractals on a torus: N,M,M float64 from 0 to 1.

    M is the smallest power of two that is not below `side`. A point of a finer grid is the mean of its four neighbours
    plus uniform noise. The width of the noise is 100**2 at first, and is divided by the square of `decay` for each
    finer grid. Here the random number of a point depends only on the key and the point. The published loop draws the
    numbers of each grid in order.
    """
    size = 1 << (side - 1).bit_length()
    noise = at_pixels(uniform, keys, (size, size)).double().mul_(2).sub_(1)
    field = torch.zeros_like(noise)
    step, wibble = size, 100.0
    while step >= 2:
        corner, middle = slice(0, None, step), slice(step // 2, None, step)
        corners = field[:, corner, corner]
        pairs = corners + corners.roll(-1, 1)
        centers = (pairs + pairs.roll(-1, 2)) / 4 + wibble**2 * noise[:, middle, middle]
        field[:, middle, middle] = centers
        flat = corners + corners.roll(-1, 2) + centers + centers.roll(1, 1)
        upright = corners + corners.roll(-1, 1) + centers + centers.roll(1, 2)
        field[:, corner, middle] = flat / 4 + wibble**2 * noise[:, corner, middle]
        field[:, middle, corner] = upright / 4 + wibble**2 * noise[:, middle, corner]
        step, wibble = step // 2, wibble / decay
    field -= field.amin(dim=(1, 2), keepdim=True)
    return field / field.amax(dim=(1, 2), keepdim=True)


def brightness(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Increase the value in the colour space HSV, at most to white. Hue and saturation do not change."""
    values = images.double()
    top = values.amax(dim=1, keepdim=True)
    raised = (top + 255 * constants(BRIGHTNESS, images, severity)).clamp_(max=255)
    return levels(raised * torch.where(top > 0, values / top.clamp(min=1), 1.0))
