"""Digital corruptions: contrast, elastic transform, pixelate and JPEG compression."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg

from kd_lightning.evaluation.corruptions import filters
from kd_lightning.evaluation.corruptions.base import at_pixels, constants, levels
from kd_lightning.randomness import named_key, uniform

_FLATTER = [0.4, 0.3, 0.2, 0.1, 0.05]
CONTRAST = {32: [0.75, 0.5, 0.4, 0.3, 0.15], 64: _FLATTER, 224: _FLATTER}
"""Factor of the distance to the mean."""
_LARGE = 244 / 224  # as in the published code
ELASTIC = {
    32: [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
    64: [(0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)],
    224: [
        tuple(_LARGE * c for c in row)
        for row in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    ],
}
"""Strength and sigma of the displacements, and displacement of the affine map's points, as shares of the side."""
PIXELATE = {32: [0.95, 0.9, 0.85, 0.75, 0.65], 64: [0.9, 0.8, 0.7, 0.6, 0.5], 224: [0.6, 0.5, 0.4, 0.3, 0.25]}
"""Side of the coarse image as a share of the image's side."""
JPEG = {32: [80, 65, 58, 50, 40], 64: [65, 58, 50, 40, 25], 224: [25, 18, 15, 10, 7]}
"""Quality for libjpeg."""


def contrast(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Move each channel towards its mean over the image."""
    factor = constants(CONTRAST, images, severity)
    pixels = images.shape[-2] * images.shape[-1]
    mean = images.long().sum(dim=(2, 3), keepdim=True).double() / pixels  # an integer sum does not depend on the order
    return levels((images - mean) * factor + mean)


def elastic_transform(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Apply a random affine map, then displacements that change smoothly over the image.

    Both maps interpolate linearly and reflect the border. The published code uses OpenCV's affine map, which rounds
    coordinates to 1/32 of a pixel. This function does not round coordinates. The constants are shares of the side, so
    they fit any image size.
    """
    strength, sigma, reach = constants(ELASTIC, images, severity)
    height, width = images.shape[-2:]
    side = min(height, width)
    y = torch.arange(height, device=images.device, dtype=torch.float64)[:, None].expand(height, width)
    x = torch.arange(width, device=images.device, dtype=torch.float64).expand(height, width)
    offsets = at_pixels(uniform, named_key(keys, "affine"), (3, 2)).double().mul_(2).sub_(1) * (reach * side)
    image = _sampled(images.double(), *_affine(offsets, x, y), corners=True)
    if strength:
        right, down = (
            filters.gaussian(
                2 * at_pixels(uniform, named_key(keys, way), (height, width)) - 1, sigma * side, "reflect", 3
            )
            for way in ("right", "down")
        )
        image = _sampled(image, x + right * (strength * side), y + down * (strength * side), corners=False)
    return levels(image)


def _affine(offsets: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the source x and y (N,H,W each) of every pixel if offsets N,3,2 move three fixed points."""
    height, width = x.shape
    right, down, half = width // 2, height // 2, min(height, width) // 3
    corners = [(right + half, down + half), (right + half, down - half), (right - half, down - half)]
    start = torch.tensor(corners, dtype=torch.float64, device=x.device)
    end = start + offsets
    (ax, ay), (bx, by) = ((end[:, i] - end[:, 0]).T[..., None, None] for i in (1, 2))
    dx, dy = (c - end[:, 0, i, None, None] for i, c in enumerate((x, y)))
    area = ax * by - ay * bx
    a, b = (dx * by - dy * bx) / area, (ax * dy - ay * dx) / area  # in units of the two moved edges
    return tuple(start[0, i] + a * (start[1, i] - start[0, i]) + b * (start[2, i] - start[0, i]) for i in (0, 1))


def _sampled(images: Tensor, x: Tensor, y: Tensor, *, corners: bool) -> Tensor:
    """Interpolate linearly at x and y (N,H,W, in pixels). The image is reflected at the border.

    If `corners` is true, the line of reflection goes through the centres of the border pixels, otherwise along their
    outer edges.
    """
    height, width = images.shape[-2:]
    if corners:
        grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    else:
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=corners)


def pixelate(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Reduce and enlarge the image with Pillow's BOX filter."""
    share = constants(PIXELATE, images, severity)
    height, width = images.shape[-2:]
    return filters.pillow_box(filters.pillow_box(images, int(height * share), int(width * share)), height, width)


def jpeg_compression(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Compress with libjpeg's defaults (colours at half resolution). The CPU does this for images of all devices."""
    quality = constants(JPEG, images, severity)
    coded = (decode_jpeg(encode_jpeg(image, quality)) for image in images.cpu())
    return torch.stack([*coded]).to(images.device)
