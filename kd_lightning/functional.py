"""Pure tensor functions that two or more methods use."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import chain
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SNE_TEMPERATURES = tuple(number / 100 for number in range(1, 11))
_SELF = 1e8  # subtracted from each vector's similarity to itself; infinity would give 0 x inf in the divergence
_STANDARDIZED = 1e-7
_FLOATS = 1 << 24  # largest number of floats in the intermediate results of one chunk


def normalize(x: Tensor, dim: int = -1) -> Tensor:
    """Return the vectors along a dimension scaled to length 1. Zero vectors stay zero and have no gradient.

    Each vector is first divided by its largest absolute entry, so that no square overflows or underflows.
    """
    largest = x.detach().abs().amax(dim=dim, keepdim=True)
    dead = largest == 0
    x = x / torch.where(dead, 1.0, largest)
    return torch.where(dead, 0.0, x / torch.where(dead, 1.0, x.norm(dim=dim, keepdim=True)))


def cosine(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    """Return the cosines of corresponding vectors of two tensors, along a dimension. A zero vector gives 0."""
    return (normalize(a, dim) * normalize(b, dim)).sum(dim=dim)


def match_spatial(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps N,C,H,W and N,D,h,w in one size. The larger map is average-pooled to the size of the smaller map."""
    grid = tuple(map(min, a.shape[-2:], b.shape[-2:]))
    return tuple(x if x.shape[-2:] == grid else F.adaptive_avg_pool2d(x, grid) for x in (a, b))


def row_normalised_gram(vectors: Tensor) -> Tensor:
    """Return the inner products M,M of M vectors, with each row of the result scaled to length 1.

    This is the matrix G of SP (Tung & Mori 2019, Eq. 2). SP compares images, IUSPKD positions, and AICSD class maps.

    Args:
        vectors: Vectors M,D, or B,M,D for B sets of vectors.
    """
    # dividing all vectors by the largest absolute value does not change the result, and prevents overflow
    largest = vectors.detach().abs().amax(dim=(-2, -1), keepdim=True)
    vectors = vectors / largest.clamp(min=torch.finfo(vectors.dtype).tiny)
    gram = vectors @ vectors.mT
    norms = gram.norm(dim=-1, keepdim=True)
    dead = norms < 1e-12  # features that are all zero have no direction, and therefore no gradient
    return torch.where(dead, torch.zeros_like(gram), gram / torch.where(dead, torch.ones_like(norms), norms))


def gram_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over N samples of the squared difference of their `row_normalised_gram`, divided by the rows M.

    Args:
        student: M vectors of each sample, N,M,D.
        teacher: M vectors of each sample, N,M,E.
    """
    student, teacher = row_normalised_gram(student), row_normalised_gram(teacher)
    return (student - teacher).square().sum(dim=2).mean()


def chunked_sum(function: Callable[..., Tensor], *tensors: Tensor, floats_each: int, whole: tuple = ()) -> Tensor:
    """Return `function(*tensors, *whole)`, but compute it in chunks of rows of the tensors.

    Each chunk is computed again in the backward pass. Only the intermediate results of one chunk are therefore in
    memory.

    Args:
        function: function that returns a scalar, which must be a sum over the rows of the tensors.
        *tensors: tensors R,... with the same number of rows R.
        floats_each: number of floats in the intermediate results of one row.
        whole: further arguments of the function. They are the same for every chunk.
    """
    rows = max(1, _FLOATS // floats_each)
    if len(tensors[0]) <= rows:
        return function(*tensors, *whole)
    parts = zip(*(tensor.split(rows) for tensor in tensors), strict=True)
    return torch.stack([checkpoint(function, *part, *whole, use_reentrant=False) for part in parts]).sum()


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a loss that computes in float32 with autocast off. Tensors of float64, labels and masks are not converted.

    The arguments of the loss may be tensors, and lists or tuples of tensors.

    Half precision is too inaccurate for soft targets, cosines and Gram matrices. For example, the entries of a
    Gram matrix of 2048 x 7 x 7 features exceed 65504, the largest number in float16. In bfloat16, a logit has only 3
    digits.
    """

    def raised(value: Any) -> Any:
        if type(value) in (list, tuple):  # not a NamedTuple
            return [raised(each) for each in value]
        low = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64
        return value.float() if low else value

    @wraps(loss)
    def in_full_precision(*args: Any, **kwargs: Any) -> Tensor:
        given = (*args, *kwargs.values())
        lists = (value for value in given if type(value) in (list, tuple))
        tensors = (value for value in chain(given, *lists) if isinstance(value, Tensor))
        with torch.autocast(next(tensors).device.type, enabled=False):
            return loss(*map(raised, args), **{name: raised(value) for name, value in kwargs.items()})

    return in_full_precision


cross_entropy = full_precision(F.cross_entropy)
"""Cross-entropy of logits N,K and labels N. It is the function of torch, computed in float32."""


def mixed_cross_entropy(
    logits: Tensor, labels: Tensor, partner_labels: Tensor | None = None, mix_lambda: Tensor | None = None
) -> Tensor:
    """Return the mean cross-entropy of logits and labels. If images are mixed, each image has two labels.

    Args:
        logits: logits N,K.
        labels: labels N, int64.
        partner_labels: labels N, int64, of the images that were mixed into these images.
        mix_lambda: weights N, in [0, 1], of `labels`. `partner_labels` get the remaining weight. None if no image is
            mixed.
    """
    if mix_lambda is None:
        return cross_entropy(logits, labels)
    own, partners = (cross_entropy(logits, target, reduction="none") for target in (labels, partner_labels))
    return torch.lerp(partners, own, mix_lambda).mean()


@full_precision
def standardize_logits(logits: Tensor) -> Tensor:
    """Return logits N,K with the mean 0 and the standard deviation 1 for each sample (Sun et al. 2024).

    The standard deviation is the unbiased one over the K classes, and 1e-7 is added to it, as in the authors' released
    code. The gradient flows through the mean and the standard deviation.

    Args:
        logits: Logits N,K, with K of 2 or more.
    """
    deviations = logits.std(dim=1, keepdim=True)
    return (logits - logits.mean(dim=1, keepdim=True)) / (deviations + _STANDARDIZED)


def other_classes(logits: Tensor, classes: Tensor) -> Tensor:
    """Return logits N,K-1: those of all classes except one class per sample.

    Args:
        logits: Logits N,K.
        classes: Class of each sample that is left out, N int64.
    """
    places = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    return logits.gather(1, places + (places >= classes[:, None]))


def log_share(logits: Tensor, classes: Tensor) -> Tensor:
    """Return log(p) and log(1 - p) of one class per sample, N,2, where p is its probability.

    Both are computed from the logits: 1 - p of a probability that rounds to 1 would be 0.

    Args:
        logits: Logits N,K, already divided by the temperature.
        classes: Class of each sample, N int64.
    """
    parts = torch.stack([logits.gather(1, classes[:, None])[:, 0], other_classes(logits, classes).logsumexp(dim=1)], 1)
    return F.log_softmax(parts, dim=1)


@full_precision
def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float | Tensor,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), summed over classes and averaged over samples.

    The factor T^2 makes the size of the gradient independent of T (Hinton et al. 2015, section 2).

    Args:
        student_logits: logits N,K of the student, for N samples and K classes.
        teacher_logits: logits N,K of the teacher.
        temperature: temperature T, above 0: a number, or a tensor without dimensions (CTKD).
        reduction: with `none`, return the N values of the samples instead of their mean.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    if reduction == "none":
        return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1) * temperature**2
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def soften(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Return logits N,K divided by a temperature: a number for all samples, or N numbers, one for each sample."""
    return logits / (temperature[:, None] if isinstance(temperature, Tensor) else temperature)


@full_precision
def target_divergence(student_logits: Tensor, targets: Tensor, *, temperature: float | Tensor) -> Tensor:
    """Return T^2 KL(targets || softmax(student / T)), averaged over samples. It is KD's loss with given targets.

    Args:
        student_logits: logits N,K of the student.
        targets: probabilities N,K.
        temperature: temperature T of the student's softmax, above 0: a number, or N numbers, one for each sample.
    """
    log_probabilities = F.log_softmax(soften(student_logits, temperature), dim=1)
    divergences = F.kl_div(log_probabilities, targets, reduction="none").sum(dim=1)
    return (divergences * temperature**2).mean()


@full_precision
def regression_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 2 minus twice the mean cosine between the rows of student and teacher (SimReg, PCKD).

    This equals the mean squared distance between the rows after they are scaled to length 1.

    Args:
        student: embeddings of the student after the head, N,D.
        teacher: embeddings of the teacher, N,D.
    """
    return 2 - 2 * cosine(student, teacher).mean()


@full_precision
def sne_loss(
    mapped: Tensor,
    teacher: Tensor,
    *,
    temperatures: Sequence[float] = SNE_TEMPERATURES,
    style: Literal["joint", "half"] = "joint",
) -> Tensor:
    """Return KL(P of the teacher's vectors || P of the mapped vectors), averaged over temperatures and sets.

    P is the von Mises-Fisher SNE distribution over pairs of vectors. The probability of the pair i, j is
    (p_ij + p_ji) / 2M, where p_ij is softmax_j(cos_ij / temperature) over all j except i. With the style `half`, there
    is one distribution p_i for each vector i, and the divergence is averaged over the vectors. The loss of a
    set of one or two vectors is 0. The equations are from TinTeM's released code (see the docstring of the class
    TinTeM).

    Args:
        mapped: the student's vectors after a map: M,D for one set of M vectors, or B,M,D for B sets.
        teacher: the teacher's vectors: M,E or B,M,E.
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
