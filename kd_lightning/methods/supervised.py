"""Supervised: labels alone."""

from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import StudentModule
from kd_lightning.models import Features


class Supervised(StudentModule):
    """Cross-entropy with the labels: the baseline without distillation, and how teachers are trained.

    Args:
        **kwargs: student, ce_weight, optimizer and lr_scheduler, as for every method.
    """

    def losses(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        return {}
