"""KD: soft targets (Hinton, Vinyals, Dean 2015)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import check_positive
from kd_lightning.functional import full_precision


@full_precision
def kd_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)): sum over the K classes, mean over the N samples.

    T^2 keeps the gradient's size independent of T (Hinton et al. 2015, section 2).

    Args:
        student_logits: N,K.
        teacher_logits: N,K.
        temperature: T, above 0.
    """
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


class KD(Distiller):
    """Soft targets (Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network").

    Args:
        temperature: of both softmaxes. 4, as in the weights below.
        ce_weight: weight of the cross-entropy with the labels; 0 leaves the teacher alone to teach.
        kd_weight: weight of the soft targets; 0.1 and 0.9 are RepDistiller's (Tian et al. 2020), the paper gives none.
        **kwargs: teacher, check_teacher, student, optimizer and lr_scheduler, as for every distiller.
    """

    reads = frozenset({"logits"})

    def __init__(
        self, *, temperature: float = 4.0, ce_weight: float = 0.1, kd_weight: float = 0.9, **kwargs: Any
    ) -> None:
        super().__init__(ce_weight=ce_weight, **kwargs)
        check_positive(temperature=temperature)
        self.check_weights(kd_weight=kd_weight)
        self.temperature, self.kd_weight = temperature, kd_weight

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        student = self.student(batch.images)
        teacher = self.teach(batch.images, logits=True).logits
        return {
            **self.label_loss(student, batch),
            "kd": self.kd_weight * kd_loss(student, teacher, temperature=self.temperature),
        }
