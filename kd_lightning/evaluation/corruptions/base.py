"""What the corruptions share: constants for each scale, draws for each pixel, and rounding to bytes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kd_lightning.randomness import fold_in

Corruption = Callable[[Tensor, Tensor, int], Tensor]
"""Bytes N,3,H,W, keys N that are its own, and a severity of 1 to 5, to bytes N,3,H,W."""

SLACK = 1e-6
"""What a value may lack of the next whole level: the rounding errors of a sum must not decide about a level."""


def constants(table: dict[int, Sequence[Any]], images: Tensor, severity: int) -> Any:
    """What a table of constants (side: one for each severity) has for the side nearest to the images' in ratio."""
    side = min(images.shape[-2:])
    return table[min(table, key=lambda scale: abs(math.log(scale / side)))][severity - 1]


def levels(values: Tensor) -> Tensor:
    """uint8 from levels of 0 to 255, cut off and not rounded, as the published code casts."""
    return (values + SLACK).clamp_(0, 255).to(torch.uint8)


def at_pixels(distribution: Callable[..., Tensor], keys: Tensor, shape: tuple[int, ...], **kwargs: Any) -> Tensor:
    """N,*shape: a number of its own for every key (N) and place.

    Args:
        distribution: of `kd_lightning.randomness`: uniform, normal or integers.
        keys: N int64.
        shape: of the numbers for one key.
        **kwargs: of the distribution.
    """
    rows = fold_in(keys[:, None], torch.arange(math.prod(shape[:-1]), device=keys.device))
    columns = torch.arange(shape[-1], device=keys.device)
    return distribution(rows[..., None], draw=columns, **kwargs).view(-1, *shape)
