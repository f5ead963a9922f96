"""Frost that is computed. The published corruption uses photographs of frost."""

import math

import torch
from torch import Tensor

from kd_lightning.data.augmentations.base import between
from kd_lightning.evaluation.corruptions.base import constants, levels
from kd_lightning.evaluation.corruptions.weather import plasma
from kd_lightning.randomness import fold_in, named_key

FROST = {
    32: [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
    64: [(1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)],
    224: [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
}
"""Weights of the image and of the frost."""
_FEATHERS = 24


def frost(images: Tensor, keys: Tensor, severity: int) -> Tensor:
    """Blend ice crystals with the image, with the published weights.

    The results are not comparable with published numbers. Hendrycks and Dietterich crop five photographs of frost,
    which are not part of this package. Here the frost is computed. It consists of feathers of ice over a plasma
    fractal. Its mean brightness (0.48 to 0.82), contrast (0.08 to 0.17) and blue tint are similar to those of the
    photographs.
    """
    keep, cover = constants(FROST, images, severity)
    return levels(images * keep + ice(keys, *images.shape[-2:]) * (255 * cover))


def ice(keys: Tensor, height: int, width: int) -> Tensor:
    """Return an image of frost for each of N keys: N,3,H,W float64 in [0, 1]."""
    grown = feathers(named_key(keys, "feathers"), height, width).double()
    grown += 0.9 * plasma(named_key(keys, "pane"), max(height, width), 1.1)[:, :height, :width]
    grown -= grown.mean(dim=(1, 2), keepdim=True)
    grown /= grown.square().mean(dim=(1, 2), keepdim=True).sqrt()
    mean, contrast, tint = (
        between(keys, low, high, draw).double()[:, None, None, None]
        for draw, (low, high) in enumerate(((0.48, 0.82), (0.08, 0.17), (0.02, 0.09)))
    )
    blue = torch.tensor([-1.0, 0.2, 0.8], dtype=torch.float64, device=keys.device)[:, None, None]
    return (mean + contrast * grown[:, None] + tint * blue).clamp_(0, 1)


def feathers(keys: Tensor, height: int, width: int) -> Tensor:
    """Return the brightness of the feathers of ice, N,H,W float32. It is 0 where there is no feather.

    If several feathers cover a pixel, the brightest feather counts.

    A feather is widest at a third of its length and has a bright spine and barbs that lean forward.
    """
    side = max(height, width)
    down = (torch.arange(height, device=keys.device)[:, None] + 0.5) / side
    right = (torch.arange(width, device=keys.device) + 0.5) / side
    ranges = ((-0.1, 1.1), (-0.1, 1.1), (0, 2 * math.pi), (0.2, 0.6), (0.15, 0.4), (0.3, 1.0), (1.0, 2.0))
    brightest = torch.zeros(len(keys), height, width, device=keys.device)
    for number in range(_FEATHERS):  # one at a time, to fit into a CPU's cache
        feather_keys = fold_in(keys, number)
        x, y, angle, length, slimness, bright, spacing = (
            between(feather_keys, low, high, draw)[:, None, None] for draw, (low, high) in enumerate(ranges)
        )
        cos, sin = angle.cos(), angle.sin()
        along = (right - x) * cos + (down - y) * sin
        across = ((down - y) * cos - (right - x) * sin).abs_()
        width_at = torch.minimum(length - along, 2 * along) * slimness  # below 0 beyond root and tip
        half_width = width_at.clamp_(min=1e-6)
        inside = (1 - across / half_width).clamp_(min=0)
        turns = (along - 1.7 * across).div_(spacing * max(0.016, 2.5 / side))  # no barb is narrower than 2.5 pixels
        barbs = turns.sub_(turns.floor()).sub_(0.5).abs_()
        spine = across.div_(max(0.006, 0.6 / side)).square_().add_(1).reciprocal_().mul_(inside > 0)
        shape = barbs.mul_(1.6).add_(0.2).mul_(inside.sqrt_()).add_(spine, alpha=0.5)
        brightest = torch.maximum(brightest, shape.mul_(bright))
    return brightest
