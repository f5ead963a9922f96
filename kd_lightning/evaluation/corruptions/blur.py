"""Blurs: defocus, glass, motion and zoom."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from kd_lightning.data.augmentations.base import between
from kd_lightning.evaluation.corruptions import filters
from kd_lightning.evaluation.corruptions.base import at_pixels, constants, levels
from kd_lightning.randomness import fold_in, integers, named_key

DEFOCUS = {
    32: [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    64: [(0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)],
    224: [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
}
"""Radius of the disk and sigma of the blur of its edge, in pixels."""
GLASS = {
    32: [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    64: [(0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)],
    224: [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
}
"""Sigma of the blur and largest displacement, both in pixels, and number of passes."""
MOTION = {
    32: [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    64: [(10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)],
    224: [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
}
"""Radius and sigma in pixels."""
_FINE = [np.arange(1, stop, 0.01) for stop in (1.06, 1.11, 1.16, 1.21, 1.26)]
ZOOM = {
    32: _FINE,
    64: _FINE,
    224: [
        np.arange(1, stop, step)
        for stop, step in ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
    ],
}
"""Zoom factors."""


def defocus_blur(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Convolve the images with a disk. The border is reflected."""
    kernel = _disk(*constants(DEFOCUS, images, severity)).to(images.device)
    reach, (height, width) = len(kernel) // 2, images.shape[-2:]
    padded = F.pad(images.double(), (reach,) * 4, mode="reflect")
    size = padded.shape[-2:]
    # by FFT, so that 25 x 25 weights cost no more than 3 x 3; the kernel is symmetric
    blurred = torch.fft.irfft2(torch.fft.rfft2(padded) * torch.fft.rfft2(kernel, s=size), s=size)
    return levels(blurred[..., 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width])


def glass_blur(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Blur, replace pixels by neighbours, and blur again.

    The published loop starts at the lower right pixel. It should swap each pixel with a neighbour. But the loop uses
    views of one array, so it only copies the neighbour. This function gives the same result without a loop. In the
    loop, a copied pixel may have been overwritten before. Therefore each pixel has a pointer to the source of its copy
    here, and chains of copies are followed by pointer doubling.
    """
    sigma, reach, passes = constants(GLASS, images, severity)
    count, channels, height, width = images.shape
    pixels = levels(filters.gaussian(images, sigma, "nearest")).view(count, channels, -1)
    for number in range(passes):
        source = _copied(fold_in(keys, number), height, width, reach)
        pixels = pixels.gather(2, source[:, None].expand_as(pixels))
    return levels(filters.gaussian(pixels.view_as(images), sigma, "nearest"))


def _copied(keys: Tensor, height: int, width: int, reach: int) -> Tensor:
    """Return the source of each pixel's value after one pass of copying over the image: N,H*W int64."""
    rows, columns = torch.arange(height, device=keys.device)[:, None], torch.arange(width, device=keys.device)
    right, down = (
        at_pixels(integers, named_key(keys, way), (height, width), high=2 * reach) - reach for way in ("right", "down")
    )
    place = rows * width + columns
    # the published loops exclude the first `reach` + 1 rows and columns
    moved = (rows > reach) & (rows <= height - reach) & (columns > reach) & (columns <= width - reach)
    source = torch.where(moved, place + down * width + right, place)
    pending, source = (source > place).flatten(1), source.flatten(1)
    # pending pixels get their source's value after the pass, others their source's value before the pass
    while pending.any():
        pending, source = (
            pending & pending.gather(1, source),
            torch.where(pending, source.gather(1, source), source),
        )
    return source


def motion_blur(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Blur like ImageMagick's motion blur, and round. The direction is at most 45 degrees from the rows."""
    blurred = moving(images.float(), between(keys, -45, 45), *constants(MOTION, images, severity))
    return levels(blurred + 0.5)


def moving(images: Tensor, angle: Tensor, radius: int, sigma: float) -> Tensor:
    """Return the mean of whole-pixel shifts along a line, weighted by half a Gaussian (ImageMagick's MotionBlurImage).

    Args:
        images: Images N,C,H,W float32. The border is replicated.
        angle: Angles N in degrees.
        radius: Half of the largest shift, in pixels.
        sigma: Sigma of the weights, in pixels.
    """
    count, _, height, width = images.shape
    weights = np.exp(-0.5 * (np.arange(2 * radius + 1) / sigma) ** 2)
    weights = [float(w) for w in weights / weights.sum() if w > 1e-7 * weights.sum()]  # smaller ones have no effect
    steps, angle = torch.arange(len(weights), device=images.device), angle.double().deg2rad()[:, None]
    down, right = (torch.ceil(steps * part - 0.5).long() + len(weights) for part in (angle.sin(), angle.cos()))
    padded = F.pad(images, (len(weights),) * 4, mode="replicate")
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    sample = torch.arange(count, device=images.device)
    blurred = torch.zeros_like(images)
    for step, weight in enumerate(weights):
        blurred += windows[sample, :, down[:, step], right[:, step]] * weight
    return blurred


def zoom_blur(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Average the image and its enlargements about the centre. The first enlargement is the image itself."""
    factors = constants(ZOOM, images, severity)
    values = images.double()
    total = values.clone()
    for factor in factors:
        total += filters.zoom(values, float(factor))
    return levels(total / (len(factors) + 1))


@lru_cache(maxsize=16)
def _disk(radius: float, sigma: float) -> Tensor:
    """Return the published disk with a softened edge, as a square float64 kernel of odd size without empty margins."""
    half, reach = (8, 1) if radius <= 8 else (radius, 2)
    line = np.arange(-half, half + 1)
    disk = (line**2 + line[:, None] ** 2 <= radius**2).astype(np.float64)
    disk = ndimage.gaussian_filter(disk / disk.sum(), sigma, mode="mirror", radius=reach)
    used = int(np.abs(line[disk.max(axis=0) > 1e-12]).max())
    middle = slice(half - used, half + used + 1)
    return torch.from_numpy(disk[middle, middle].copy())
