"""DIST: distillation by correlations instead of a divergence (Huang et al. 2022)."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import check_temperature
from kd_lightning.functional import full_precision
from kd_lightning.models import Features, Reads

_EPSILON = 1e-8


@full_precision
def correlation_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, dim: int) -> Tensor:
    """Return T^2 (1 - mean Pearson correlation) of the student's and the teacher's softmax along a dimension.

    These are Eqs. 6, 8 and 9 of DIST. `dim=1` correlates over the classes of each sample (inter-class). `dim=0`
    correlates over the samples of the batch for each class (intra-class). 1e-8 is added to the denominator, as in the
    authors' released code. The correlation of a row or column that does not vary is therefore 0.

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        temperature: Temperature T of both softmaxes, above 0.
        dim: Dimension along which the correlation is computed, 0 or 1.
    """
    student, teacher = (torch.softmax(logits / temperature, dim=1) for logits in (student_logits, teacher_logits))
    student, teacher = (x - x.mean(dim=dim, keepdim=True) for x in (student, teacher))
    lengths = student.norm(dim=dim) * teacher.norm(dim=dim)
    return (1 - ((student * teacher).sum(dim=dim) / (lengths + _EPSILON)).mean()) * temperature**2


class DIST(Distiller):
    """Correlations (Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher").

    The student learns probabilities that correlate with the teacher's probabilities, instead of probabilities with the
    same values. A correlation does not change if the student's probabilities are multiplied by a positive factor or if
    an offset is added. The correlations are computed over the classes of each sample, and over the samples for each
    class. The default weights and the temperatures are those of the authors' released code.

    Args:
        temperature: Temperature of both softmaxes. The released code has 4 on CIFAR and 1 on ImageNet.
        inter_weight: Weight of the correlation over the classes of each sample.
        intra_weight: Weight of the correlation over the samples of the batch for each class.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
    """

    min_batch_size = 2

    def __init__(
        self, *, temperature: float = 4.0, inter_weight: float = 2.0, intra_weight: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature=temperature)
        self.set_weights(inter_weight=inter_weight, intra_weight=intra_weight)
        self.temperature = temperature

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        logits = self.all_gather(student.logits, teacher.logits)
        inter, intra = (correlation_loss(*logits, temperature=self.temperature, dim=dim) for dim in (1, 0))
        return {"inter": self.inter_weight * inter, "intra": self.intra_weight * intra}
