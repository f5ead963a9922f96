"""SimilarityDistance: SP's loss between two embeddings as a metric."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.functional import full_precision, row_normalised_gram
from kd_lightning.metrics.cka import check_pair
from kd_lightning.metrics.states import SumMetric, concatenate


class SimilarityDistance(SumMetric):
    """|G_teacher - G_student|^2 / b^2 of the b,b Gram matrices with normalised rows (Tung & Mori 2019, eqs. 2 to 4).

    The result is the mean over minibatches of b images. It decreases about as 1 / b. Only results with the same b can
    therefore be compared. Batches of other sizes are split and concatenated on each device. The remaining images of all
    devices are concatenated at the end. A last minibatch of fewer than b images is skipped, unless it is the only one.
    The result is NaN for fewer than 2 images, or if a value is not finite.

    Args:
        batch_size: Number of images b. 128 is close to the batch size of the paper's CIFAR-10 runs.
    """

    higher_is_better = False
    total: Tensor
    count: Tensor
    student: list[Tensor]
    teacher: list[Tensor]

    def __init__(self, *, batch_size: int = 128, **kwargs: Any) -> None:
        if batch_size < 2:
            raise ConfigError(f"batch_size: {batch_size} is below 2; a similarity needs at least 2 images")
        super().__init__("total", "count", **kwargs)
        self.batch_size = batch_size
        self.add_state("student", [], dist_reduce_fx="cat")
        self.add_state("teacher", [], dist_reduce_fx="cat")

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Add images: features N,... and N,..., which are flattened to N rows."""
        check_pair(student, teacher)
        self.student.append(_rows(student))
        self.teacher.append(_rows(teacher))
        if sum(map(len, self.student)) >= self.batch_size:
            total, count, used = self._full_batches(concatenate(self.student), concatenate(self.teacher))
            self.total += total
            self.count += count
            self.student, self.teacher = ([concatenate(rows)[used:]] for rows in (self.student, self.teacher))

    def compute(self) -> Tensor:
        """Return a float64 scalar."""
        student, teacher = concatenate(self.student), concatenate(self.teacher)
        total, count, _ = self._full_batches(student, teacher)
        total, count = self.total + total, self.count + count
        if count == 0 and len(student) > 1:
            return _distance(student, teacher)
        return total / count

    def _full_batches(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, int, int]:
        """Return the sum over complete minibatches, their number, and their number of images."""
        count = len(student) // self.batch_size
        used = count * self.batch_size
        parts = [slice(start, start + self.batch_size) for start in range(0, used, self.batch_size)]
        return (
            sum((_distance(student[part], teacher[part]) for part in parts), torch.zeros_like(self.total)),
            count,
            used,
        )


def similarity_distance(student: Tensor, teacher: Tensor, *, batch_size: int = 128) -> Tensor:
    """Return `SimilarityDistance` of features N,... and N,... as a float64 scalar.

    The value depends on the order of the images, because they are divided into minibatches.
    """
    metric = SimilarityDistance(batch_size=batch_size, sync_on_compute=False).to(student.device)
    metric.update(student, teacher)
    return metric.compute()


def _rows(images: Tensor) -> Tensor:
    rows = images.detach().flatten(1)
    return rows if rows.dtype == torch.float64 else rows.float()


@full_precision
def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    return (row_normalised_gram(teacher) - row_normalised_gram(student)).square().mean().double()
