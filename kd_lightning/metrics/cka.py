"""LinearCKA: similarity of two embeddings of any widths, computed from their Gram matrices."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.metrics.states import SumMetric

MIN_IMAGES = 4
"""Smallest number of images for the unbiased estimate."""


class LinearCKA(SumMetric):
    """Unbiased centred kernel alignment with linear kernels over minibatches. The value is about 0 to 1.

    The value is HSIC_1(XY) / sqrt(HSIC_1(XX) HSIC_1(YY)). Each term is the mean over minibatches of the unbiased
    estimate of Song et al. 2012 (Nguyen, Raghu, Kornblith 2021, eqs. 3 to 5). The value is 1 for embeddings that are
    equal up to rotation, scale and shift. It is about 0, and may be negative, for independent embeddings. It is NaN if
    one embedding is constant, or if no minibatch has 4 images.

    Each update is one minibatch, usually a batch of the loader. All minibatches have the same weight, independent of
    their size. Minibatches with fewer than 4 images are skipped. The attribute `skipped` counts their images.
    """

    higher_is_better = True
    cross: Tensor
    student: Tensor
    teacher: Tensor
    skipped: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("cross", "student", "teacher", "skipped", **kwargs)

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Add a minibatch of embeddings N,... and N,..., which are flattened to N rows."""
        check_pair(student, teacher)
        if len(student) < MIN_IMAGES:
            self.skipped += len(student)
            return
        cross, student_hsic, teacher_hsic = _hsics(student, teacher)
        self.cross += cross
        self.student += student_hsic
        self.teacher += teacher_hsic

    def compute(self) -> Tensor:
        """Return the value as a float64 scalar."""
        return _alignment(self.cross, self.student, self.teacher)


def linear_cka(student: Tensor, teacher: Tensor) -> Tensor:
    """Return `LinearCKA` of embeddings N,... and N,... as one batch: a float64 scalar, NaN for fewer than 4 images.

    The function computes a D x E matrix or N x N matrices, whichever are smaller. The cost is N x D x E or
    N x N x (D + E). It therefore needs no N x N matrix for 50,000 images.
    """
    check_pair(student, teacher)
    if len(student) < MIN_IMAGES:
        return torch.full((), torch.nan, dtype=torch.float64, device=student.device)
    return _alignment(*_hsics(student, teacher))


def check_pair(student: Tensor, teacher: Tensor) -> None:
    """Raise an error if the two embeddings have different numbers of images.

    Raises:
        ConfigError: in this case. The message contains both shapes.
    """
    if min(student.ndim, teacher.ndim) < 2 or len(student) != len(teacher):
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ConfigError(f"embeddings: the shapes are {shapes}, but they must be N,D and N,E for the same N images")


def _alignment(cross: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    size = student.sqrt() * teacher.sqrt()
    return torch.where(size == 0, torch.nan, cross / size)


def _hsics(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y = (_centred(rows.detach().flatten(1).double()) for rows in (student, teacher))
    return _hsic(x, y), _self_hsic(x), _self_hsic(y)


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(dim=0)  # the estimate is invariant to shifts, but a large one would cost precision


def _hsic(x: Tensor, y: Tensor) -> Tensor:
    """Return the estimate of Song et al. 2012, eq. 5, for centred rows N,D and N,E."""
    n = len(x)
    inner = (x @ x.T * (y @ y.T)).sum() if n < max(x.shape[1], y.shape[1]) else (x.T @ y).square().sum()
    diagonals = [rows.square().sum(dim=1) for rows in (x, y)]
    # row sums of the Gram matrices without the diagonal
    k, m = (rows @ rows.sum(dim=0) - diagonal for rows, diagonal in zip((x, y), diagonals, strict=True))
    trace = inner - (diagonals[0] * diagonals[1]).sum()
    return (trace + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k * m).sum() / (n - 2)) / (n * (n - 3))


def _self_hsic(x: Tensor) -> Tensor:
    """Return the estimate for one embedding. It is never negative, and 0 if it consists only of rounding errors."""
    hsic = _hsic(x, x)
    return torch.where(hsic <= 1e-12 * x.square().sum(dim=1).mean().square(), torch.zeros_like(hsic), hsic)
