"""Common parts of the corruptions: constants by image size, random numbers per pixel, and conversion to bytes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kd_lightning.randomness import fold_in

Corruption = Callable[[Tensor, Tensor, int], Tensor]
"""Function of uint8 images N,3,H,W, keys N and a severity from 1 to 5 that returns uint8 images N,3,H,W."""

SLACK = 1e-6
"""Values closer than this below the next whole level get this level, so that rounding errors have no effect."""


def constants(table: dict[int, Sequence[Any]], images: Tensor, severity: int) -> Any:
    """Return the constants for a severity from the row of the table whose side is nearest, by ratio, to the images."""
    side = min(images.shape[-2:])
    return table[min(table, key=lambda scale: abs(math.log(scale / side)))][severity - 1]


def levels(values: Tensor) -> Tensor:
    """Convert levels from 0 to 255 to uint8 by truncation, as in the published code."""
    return (values + SLACK).clamp_(0, 255).to(torch.uint8)


def at_pixels(distribution: Callable[..., Tensor], keys: Tensor, shape: tuple[int, ...], **kwargs: Any) -> Tensor:
    """Return independent random numbers N,*shape, one for every key and position.

    Args:
        distribution: Function `uniform`, `normal` or `integers` of `kd_lightning.randomness`.
        keys: Keys of the samples, N int64.
        shape: Shape of the numbers for one key.
        **kwargs: Arguments of the distribution.
    """
    rows = fold_in(keys[:, None], torch.arange(math.prod(shape[:-1]), device=keys.device))
    columns = torch.arange(shape[-1], device=keys.device)
    return distribution(rows[..., None], draw=columns, **kwargs).view(-1, *shape)
