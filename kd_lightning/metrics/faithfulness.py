"""Similarity of the predictions of student and teacher: agreement, KL divergence, cosine of logits."""

import math
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.functional import cosine
from kd_lightning.metrics.states import MeanOverImages


class Agreement(MeanOverImages):
    """Share of images for which student and teacher predict the same class. It is NaN without images.

    Args:
        where_teacher_errs: Whether only images on which the teacher is wrong are used. Without such images, the result
            is NaN.
    """

    higher_is_better = True

    def __init__(self, *, where_teacher_errs: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.where_teacher_errs = where_teacher_errs

    def update(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> None:
        """Add images: logits N,K or classes N of each network. Labels N are needed only for `where_teacher_errs`."""
        equal, is_wrong = _same(student, teacher, labels)
        if self.where_teacher_errs and is_wrong is None:
            raise ConfigError("labels: None; where_teacher_errs needs labels")
        self.add(equal[is_wrong] if self.where_teacher_errs else equal)


class SoftKL(MeanOverImages):
    """Mean over images of KL(teacher || student) of the softmax at temperature 1, in nats and float64.

    It is NaN without images or for logits that are not finite.
    """

    higher_is_better = False

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Add images: logits N,K of each network."""
        self.add(_kl(*_pair(student, teacher)))


class LogitCosine(MeanOverImages):
    """Mean over images of the cosine between the logits of both networks, from -1 to 1.

    The logits of each network are first centred over the classes. The cosine of an image is 0 if the logits of one
    network are constant. The mean is NaN without images, or if a logit is not finite.
    """

    higher_is_better = True

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Add images: logits N,K of each network."""
        self.add(_cosine(*_pair(student, teacher)))


class AgreementShares(NamedTuple):
    """Shares of images for which student and teacher predict the same class, as float64 scalars."""

    overall: Tensor
    """Share among all images. It is NaN if there are none."""
    where_teacher_errs: Tensor
    """Share among the images on which the teacher is wrong. It is NaN if there are none, or if there are no labels."""


def agreement(student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> AgreementShares:
    """Return `Agreement` of logits N,K or classes N, with and without `where_teacher_errs`."""
    equal, is_wrong = _same(student, teacher, labels)
    where_wrong = equal[is_wrong].mean() if is_wrong is not None else equal.new_full((), math.nan)
    return AgreementShares(equal.mean(), where_wrong)


def soft_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Return `SoftKL` of logits N,K, a float64 scalar."""
    return _kl(*_pair(student, teacher)).mean()


def logit_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return `LogitCosine` of logits N,K, a float64 scalar."""
    return _cosine(*_pair(student, teacher)).mean()


def _same(student: Tensor, teacher: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return for each image whether the predictions are equal (0 or 1), and whether the teacher is wrong."""
    student_class, teacher_class = (x.argmax(dim=1) if x.ndim == 2 else x for x in (student, teacher))
    shapes = {tuple(x.shape) for x in (student_class, teacher_class, labels) if x is not None}
    if len(shapes) > 1 or student_class.ndim != 1 or (student.ndim == teacher.ndim and student.shape != teacher.shape):
        shapes = ", ".join(str(tuple(x.shape)) for x in (student, teacher, labels) if x is not None)
        raise ConfigError(
            f"logits: the shapes are {shapes}, but student and teacher must be N,K or N, and labels N, for the "
            "same N images"
        )
    return (student_class == teacher_class).double(), None if labels is None else teacher_class != labels


def _pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.ndim != 2 or student.shape != teacher.shape or not student.shape[1]:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ConfigError(f"logits: the shapes are {shapes}, but student and teacher must both be N,K")
    return student.detach().double(), teacher.detach().double()


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    student_log, teacher_log = (F.log_softmax(logits, dim=1) for logits in (student, teacher))
    return F.kl_div(student_log, teacher_log, reduction="none", log_target=True).sum(dim=1)


def _cosine(student: Tensor, teacher: Tensor) -> Tensor:
    shifted = (logits - logits[:, :1] for logits in (student, teacher))  # constant logits become exactly 0
    student, teacher = (logits - logits.mean(dim=1, keepdim=True) for logits in shifted)
    return cosine(student, teacher)
