"""Pure tensor functions that two or more methods use."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SNE_TEMPERATURES = tuple(number / 100 for number in range(1, 11))
_SELF = 1e8  # subtracted from a vector's similarity to itself; finite, because -inf gives 0 x inf in the divergence
_FLOATS = 1 << 24  # largest number of floats in the intermediate results of one chunk


def normalize(x: Tensor, dim: int = -1) -> Tensor:
    """Return the vectors along a dimension scaled to length 1; zero vectors stay zero and have no gradient.

    The vectors are divided by their largest entry first, so that no square overflows or underflows.
    """
    largest = x.detach().abs().amax(dim=dim, keepdim=True)
    dead = largest == 0
    x = x / torch.where(dead, 1.0, largest)
    return torch.where(dead, 0.0, x / torch.where(dead, 1.0, x.norm(dim=dim, keepdim=True)))


def cosine(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    """Return the cosines between the vectors of two tensors along a dimension; 0 if one vector is zero."""
    return (normalize(a, dim) * normalize(b, dim)).sum(dim=dim)


def match_spatial(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps N,C,H,W and N,D,h,w with equal size; the larger one is average-pooled to the smaller size."""
    grid = tuple(map(min, a.shape[-2:], b.shape[-2:]))
    return tuple(x if x.shape[-2:] == grid else F.adaptive_avg_pool2d(x, grid) for x in (a, b))


def row_normalised_gram(features: Tensor) -> Tensor:
    """Return inner products N,N of features N,..., rows scaled to length 1 (SP's G, Tung & Mori 2019, Eq. 2)."""
    rows = features.flatten(1)
    # a common factor of all features does not change the result, and dividing by the largest prevents overflow
    rows = rows / rows.detach().abs().amax().clamp(min=torch.finfo(rows.dtype).tiny)
    gram = rows @ rows.T
    norms = gram.norm(dim=1, keepdim=True)
    dead = norms < 1e-12  # features that are all zero have no direction, hence no gradient
    return torch.where(dead, torch.zeros_like(gram), gram / torch.where(dead, torch.ones_like(norms), norms))


def chunked_sum(function: Callable[..., Tensor], *tensors: Tensor, floats_each: int, whole: tuple = ()) -> Tensor:
    """Return function(*tensors, *whole), which is a sum over the rows of the tensors, computed in chunks of rows.

    Each chunk is computed again in the backward pass, so that only one chunk's intermediate results are in memory.

    Args:
        function: function that returns a scalar, which is a sum over rows.
        *tensors: tensors R,... with the same number of rows R.
        floats_each: number of floats in the intermediate results of one row.
        whole: further arguments of the function, the same for every chunk.
    """
    rows = max(1, _FLOATS // floats_each)
    if len(tensors[0]) <= rows:
        return function(*tensors, *whole)
    parts = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
    return torch.stack([checkpoint(function, *part, *whole, use_reentrant=False) for part in parts]).sum()


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a loss that computes in float32 with autocast off; it does not convert float64, labels and masks.

    Half precision is too inaccurate for soft targets, cosines and Gram matrices: a Gram matrix of 2048 x 7 x 7 features
    exceeds float16's largest number, 65504, and bfloat16 has 3 digits for a logit.
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
"""Cross-entropy of logits N,K with classes N, as in torch, computed in float32."""


def mixed_cross_entropy(
    logits: Tensor, labels: Tensor, partner_labels: Tensor | None = None, mix_lambda: Tensor | None = None
) -> Tensor:
    """Return the mean cross-entropy of logits N,K with the labels N of images, or with both labels of mixed images.

    Args:
        logits: N,K.
        labels: N, int64.
        partner_labels: N, int64: the label of the image that was mixed into each image.
        mix_lambda: N, in [0, 1]: the weight of each mixed image's own label; None if no image is mixed.
    """
    if mix_lambda is None:
        return cross_entropy(logits, labels)
    own, partners = (cross_entropy(logits, target, reduction="none") for target in (labels, partner_labels))
    return torch.lerp(partners, own, mix_lambda).mean()


@full_precision
def kd_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), summed over K classes, averaged over N samples.

    The factor T^2 makes the size of the gradient independent of T (Hinton et al. 2015, section 2).

    Args:
        student_logits: N,K.
        teacher_logits: N,K.
        temperature: temperature T, above 0.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


@full_precision
def sne_loss(
    mapped: Tensor,
    teacher: Tensor,
    *,
    temperatures: Sequence[float] = SNE_TEMPERATURES,
    style: Literal["joint", "half"] = "joint",
) -> Tensor:
    """Return KL(P of the teacher's vectors || P of the mapped vectors), averaged over temperatures and sets.

    P is the von Mises-Fisher SNE distribution over pairs: softmax_j(cos_ij / temperature) for j not equal to i, made
    symmetric and divided by 2 M. With `half`, P is a distribution for each vector, and the mean over vectors is taken.
    The loss of a set of one or two vectors is 0. The equations are from TinTeM's released code (see the docstring of
    the class TinTeM).

    Args:
        mapped: one set M,D of M vectors, or B sets B,M,D.
        teacher: the teacher's vectors, M,E or B,M,E.
        temperatures: temperatures above 0.
        style: `joint` (as in the paper) or `half`.
    """
    if mapped.ndim == 2:
        mapped, teacher = mapped[None], teacher[None]
    floats_each = mapped.shape[1] ** 2 * len(temperatures)
    settings = (tuple(temperatures), style)
    return chunked_sum(_divergences, mapped, teacher, floats_each=floats_each, whole=settings) / len(mapped)


def _divergences(mapped: Tensor, teacher: Tensor, temperatures: Sequence[float], style: str) -> Tensor:
    student, target = _similarities(mapped), _similarities(teacher)
    return torch.stack([_divergence(student / t, target / t, style) for t in temperatures]).mean()


def _similarities(vectors: Tensor) -> Tensor:
    vectors = normalize(vectors)
    own = torch.eye(vectors.shape[1], dtype=vectors.dtype, device=vectors.device) * _SELF
    return vectors @ vectors.transpose(1, 2) - own


def _divergence(student: Tensor, target: Tensor, style: str) -> Tensor:
    """Return the divergence of similarities B,M,M, summed over the B sets."""
    log_q, log_p = (x.log_softmax(dim=2) for x in (student, target))
    size = student.shape[1]
    if style == "half":
        return (log_p.exp() * (log_p - log_q)).sum() / size
    log_q, log_p = (torch.logaddexp(x, x.transpose(1, 2)) - math.log(2 * size) for x in (log_q, log_p))
    return (log_p.exp() * (log_p - log_q)).sum()
