"""Pure tensor functions that two or more methods use."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """Vectors along a dimension brought to length 1; those that are all zero stay so and have no gradient.

    Safe for any magnitude: the largest entry is divided out first, so that no square overflows or vanishes.
    """
    largest = x.detach().abs().amax(dim=dim, keepdim=True)
    dead = largest == 0
    x = x / torch.where(dead, 1.0, largest)
    return torch.where(dead, 0.0, x / torch.where(dead, 1.0, x.norm(dim=dim, keepdim=True)))


def cosine(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    """Cosines between the vectors of two tensors along a dimension; 0 where one of them is all zero."""
    return (unit(a, dim) * unit(b, dim)).sum(dim=dim)


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Runs a loss in float32 with autocast off, whatever its tensors come in; float64, labels and masks stay.

    Soft targets, cosines and Gram matrices lose their meaning in half precision: a Gram of 2048 x 7 x 7 features
    passes float16's 65504, and bfloat16 keeps 3 digits of a logit.
    """

    def raised(value: Any) -> Any:
        low = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
        return value.float() if low else value

    @wraps(loss)
    def in_full_precision(*args: Any, **kwargs: Any) -> Tensor:
        tensor = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(tensor.device.type, enabled=False):
            return loss(*map(raised, args), **{name: raised(value) for name, value in kwargs.items()})

    return in_full_precision
