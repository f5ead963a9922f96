"""Independent noise in every pixel and channel: Gaussian, shot and impulse noise."""

from functools import lru_cache

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from kd_lightning.evaluation.corruptions.base import at_pixels, constants, levels
from kd_lightning.randomness import normal, uniform

GAUSSIAN = {
    32: [0.04, 0.06, 0.08, 0.09, 0.10],
    64: [0.04, 0.08, 0.12, 0.15, 0.18],
    224: [0.08, 0.12, 0.18, 0.26, 0.38],
}
"""Standard deviation; white is 1."""
SHOT = {32: [500, 250, 100, 75, 50], 64: [250, 100, 50, 30, 15], 224: [60, 25, 12, 5, 3]}
"""Number of photons of a white pixel."""
IMPULSE = {
    32: [0.01, 0.02, 0.03, 0.05, 0.07],
    64: [0.01, 0.02, 0.05, 0.08, 0.14],
    224: [0.03, 0.06, 0.09, 0.17, 0.27],
}
"""Share of replaced values."""


def gaussian_noise(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Add normal noise."""
    deviation = constants(GAUSSIAN, images, severity)
    noise = at_pixels(normal, keys, tuple(images.shape[1:]))
    return levels(noise.mul_(255 * deviation).add_(images))


def shot_noise(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Replace each value by a Poisson-distributed number of photons, sampled by inversion of the distribution."""
    white = constants(SHOT, images, severity)
    sums = _poisson_sums(white).to(images.device)
    values = images.double()
    drawn = at_pixels(uniform, keys, tuple(images.shape[1:])).double().add_(values)
    photons = torch.searchsorted(sums, drawn, right=True).sub_(images.long() * white)
    return levels(torch.arange(white + 1, device=images.device).double() * 255 / white)[photons]


def impulse_noise(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Replace values by white or black, with equal probability."""
    share = constants(IMPULSE, images, severity)
    drawn = at_pixels(uniform, keys, tuple(images.shape[1:]))
    return images.masked_fill(drawn < share, 0).masked_fill_(drawn < share / 2, 255)


@lru_cache(maxsize=16)
def _poisson_sums(white: int) -> Tensor:
    """Return a sorted table of 256 * white float64: level + P(fewer than k + 1 photons), for k below `white`.

    For each level, the table contains the cumulative probabilities up to `white` - 1 photons, because all larger
    numbers of photons give white. The level is added to its probabilities. One sorted table therefore contains all
    levels, and a single search is enough.
    """
    brightness = np.arange(256)[:, None]
    return torch.from_numpy(brightness + stats.poisson.cdf(np.arange(white), brightness * white / 255)).flatten()
