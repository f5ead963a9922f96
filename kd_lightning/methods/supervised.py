"""Supervised: labels alone."""

from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import StudentModule


class Supervised(StudentModule):
    """Cross-entropy with the labels: the baseline without distillation, and how teachers are trained.

    Args:
        **kwargs: student, optimizer and lr_scheduler, as for every method.
    """

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"ce": self.cross_entropy(self.student(batch.images), batch)}
