"""Whether a student says what its teacher says, right or wrong: agreement, KL, cosine of logits."""

import math
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.functional import cosine
from kd_lightning.metrics.states import MeanOverImages


class Agreement(MeanOverImages):
    """The share of images to which student and teacher give the same class; NaN for no image.

    Args:
        where_teacher_errs: only among the images that the teacher gets wrong; NaN where it gets all right.
    """

    higher_is_better = True

    def __init__(self, *, where_teacher_errs: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.where_teacher_errs = where_teacher_errs

    def update(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> None:
        """Adds images: logits N,K or classes N of each, and the labels N, which only the teacher's errors need."""
        same, errs = _same(student, teacher, labels)
        if self.where_teacher_errs and errs is None:
            raise ConfigError("labels: None; where the teacher errs cannot be told without them")
        self.add(same[errs] if self.where_teacher_errs else same)


class SoftKL(MeanOverImages):
    """The mean over images of KL(teacher || student) of the softmax at temperature 1, in nats and float64.

    NaN for no image, or for logits that are not finite.
    """

    higher_is_better = False

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Adds images: logits N,K of each."""
        self.add(_kl(*_pair(student, teacher)))


class LogitCosine(MeanOverImages):
    """The mean over images of the cosine between the two's logits, each less its mean over the classes: -1 to 1.

    0 for an image whose logits are constant to one of them. NaN for no image, or for logits that are not finite.
    """

    higher_is_better = True

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Adds images: logits N,K of each."""
        self.add(_cosine(*_pair(student, teacher)))


class Agreed(NamedTuple):
    """Shares of images with one class for both, float64 scalars."""

    overall: Tensor
    """Of all; NaN for none."""
    where_teacher_errs: Tensor
    """Of those that the teacher gets wrong; NaN for none, or without labels."""


def agreement(student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Agreed:
    """`Agreement` of logits N,K or classes N, in both ways."""
    same, errs = _same(student, teacher, labels)
    among = same[errs].mean() if errs is not None else same.new_full((), math.nan)
    return Agreed(same.mean(), among)


def soft_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """`SoftKL` of logits N,K, a float64 scalar."""
    return _kl(*_pair(student, teacher)).mean()


def logit_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """`LogitCosine` of logits N,K, a float64 scalar."""
    return _cosine(*_pair(student, teacher)).mean()


def _same(student: Tensor, teacher: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Of each image, whether both say one class (0 or 1), and whether the teacher errs."""
    ours, theirs = (x.argmax(dim=1) if x.ndim == 2 else x for x in (student, teacher))
    given = {tuple(x.shape) for x in (ours, theirs, labels) if x is not None}
    if len(given) > 1 or ours.ndim != 1 or (student.ndim == teacher.ndim and student.shape != teacher.shape):
        shapes = ", ".join(str(tuple(x.shape)) for x in (student, teacher, labels) if x is not None)
        raise ConfigError(f"logits: {shapes}; student and teacher must be N,K or N, labels N, of the same N images")
    return (ours == theirs).double(), None if labels is None else theirs != labels


def _pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.ndim != 2 or student.shape != teacher.shape or not student.shape[1]:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ConfigError(f"logits: {shapes}; student's and teacher's must be N,K both")
    return student.detach().double(), teacher.detach().double()


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    ours, theirs = (F.log_softmax(logits, dim=1) for logits in (student, teacher))
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)


def _cosine(student: Tensor, teacher: Tensor) -> Tensor:
    shifted = (logits - logits[:, :1] for logits in (student, teacher))  # what is constant becomes exactly 0
    ours, theirs = (logits - logits.mean(dim=1, keepdim=True) for logits in shifted)
    return cosine(ours, theirs)
