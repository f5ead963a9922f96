"""Supervised: training with labels and without a teacher."""

from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import StudentModule
from kd_lightning.models import Features


class Supervised(StudentModule):
    """Training with labels and without a teacher. It trains a baseline without distillation, or a teacher.

    Args:
        **kwargs: Arguments of every method, such as student, ce_weight, optimizer and lr_scheduler.
    """

    def losses(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        return {}
