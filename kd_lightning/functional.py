"""Pure tensor functions that two or more methods use."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


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
