"""DIST: correlations in place of a divergence (Huang et al. 2022)."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import check_positive
from kd_lightning.functional import full_precision
from kd_lightning.models import Features, Reads

_EPSILON = 1e-8


@full_precision
def correlation_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, dim: int) -> Tensor:
    """T^2 (1 - mean Pearson correlation) of the two softmaxes along a dimension (DIST, Eq. 6, 8, 9).

    Along 1, a sample's classes (inter-class); along 0, a class over the batch (intra-class). A row or column that
    does not vary correlates with nothing: 0, by the released code's 1e-8 in the denominator.

    Args:
        student_logits: N,K.
        teacher_logits: N,K.
        temperature: T, above 0.
        dim: 0 or 1.
    """
    student, teacher = (torch.softmax(logits / temperature, dim=1) for logits in (student_logits, teacher_logits))
    student, teacher = (x - x.mean(dim=dim, keepdim=True) for x in (student, teacher))
    lengths = student.norm(dim=dim) * teacher.norm(dim=dim)
    return (1 - ((student * teacher).sum(dim=dim) / (lengths + _EPSILON)).mean()) * temperature**2


class DIST(Distiller):
    """Correlations (Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher").

    The student is to keep the order of what the teacher says, not its values: a sample's classes, and a class's
    samples. The weights of 2 and the temperatures are the released code's.

    Args:
        temperature: of both softmaxes: 4 on CIFAR, 1 on ImageNet.
        inter_weight: weight of the correlation of each sample's classes.
        intra_weight: weight of the correlation of each class's samples, in the batch.
        **kwargs: teacher, ce_weight, kd_weight, student, optimizer and lr_scheduler, as for every distiller.
    """

    min_batch_size = 2

    def __init__(
        self, *, temperature: float = 4.0, inter_weight: float = 2.0, intra_weight: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_positive(temperature=temperature)
        self.set_weights(inter_weight=inter_weight, intra_weight=intra_weight)
        self.temperature = temperature

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        logits = self.all_gather(student.logits, teacher.logits)
        inter, intra = (correlation_loss(*logits, temperature=self.temperature, dim=dim) for dim in (1, 0))
        return {"inter": self.inter_weight * inter, "intra": self.intra_weight * intra}
