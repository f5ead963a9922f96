"""Pure tensor functions that two or more methods use."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_FLOATS = 1 << 24  # that one piece of a large intermediate may take


def normalize(x: Tensor, dim: int = -1) -> Tensor:
    """Vectors along a dimension brought to length 1; those that are all zero stay so and have no gradient.

    Safe for any magnitude: the largest entry is divided out first, so that no square overflows or vanishes.
    """
    largest = x.detach().abs().amax(dim=dim, keepdim=True)
    dead = largest == 0
    x = x / torch.where(dead, 1.0, largest)
    return torch.where(dead, 0.0, x / torch.where(dead, 1.0, x.norm(dim=dim, keepdim=True)))


def cosine(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    """Cosines between the vectors of two tensors along a dimension; 0 where one of them is all zero."""
    return (normalize(a, dim) * normalize(b, dim)).sum(dim=dim)


def match_spatial(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Maps N,C,H,W and N,D,h,w on one grid: the larger averaged to the smaller."""
    grid = tuple(map(min, a.shape[-2:], b.shape[-2:]))
    return tuple(x if x.shape[-2:] == grid else F.adaptive_avg_pool2d(x, grid) for x in (a, b))


def row_normalised_gram(features: Tensor) -> Tensor:
    """N,N inner products of features N,..., each row brought to length 1 (SP's G, Tung & Mori 2019, Eq. 2)."""
    rows = features.flatten(1)
    # the loss does not change when all features are scaled alike, and so no product can overflow
    rows = rows / rows.detach().abs().amax().clamp(min=torch.finfo(rows.dtype).tiny)
    gram = rows @ rows.T
    norms = gram.norm(dim=1, keepdim=True)
    dead = norms < 1e-12  # a sample whose features are all zero has no direction, hence no gradient
    return torch.where(dead, torch.zeros_like(gram), gram / torch.where(dead, torch.ones_like(norms), norms))


def chunked_sum(function: Callable[..., Tensor], *tensors: Tensor, floats_each: int, whole: tuple = ()) -> Tensor:
    """function(*tensors, *whole), a sum over the rows of the tensors, some rows at a time.

    Each piece is computed again for its gradient, so that one piece's intermediates at a time are held.

    Args:
        function: gives a scalar that is a sum over rows.
        *tensors: R,... each.
        floats_each: what one row's intermediates take.
        whole: further arguments, the same for each piece.
    """
    rows = max(1, _FLOATS // floats_each)
    if len(tensors[0]) <= rows:
        return function(*tensors, *whole)
    parts = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
    return torch.stack([checkpoint(function, *part, *whole, use_reentrant=False) for part in parts]).sum()


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


cross_entropy = full_precision(F.cross_entropy)
"""Cross-entropy of logits N,K with classes N, as torch's."""
