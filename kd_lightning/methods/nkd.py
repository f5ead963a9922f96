"""NKD: normalised non-target soft targets (Yang et al. 2023)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import check_not_negative, check_temperature
from kd_lightning.functional import full_precision, other_classes
from kd_lightning.models import Features, Reads


@full_precision
def nkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: float = 1.0, gamma: float = 1.5
) -> Tensor:
    """Return the mean of -p_t,y log p_s,y - gamma T^2 sum over c != y of q_t,c log q_s,c (NKD, Eq. 6).

    p is a softmax over all classes, at a temperature of 1. q is a softmax over the classes other than the label y, at
    the temperature T. The loss is not minimal at student = teacher, because the first part pulls p_s,y to 1. With two
    classes, the second part is 0.

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        labels: Labels N, int64.
        temperature: Temperature T of the softmaxes over the other classes, above 0.
        gamma: Weight of the part of the other classes.
    """
    teacher = F.softmax(teacher_logits, dim=1).gather(1, labels[:, None])[:, 0]
    target = -(teacher * F.log_softmax(student_logits, dim=1).gather(1, labels[:, None])[:, 0])
    student, others = (other_classes(x, labels) / temperature for x in (student_logits, teacher_logits))
    others = -(F.softmax(others, dim=1) * F.log_softmax(student, dim=1)).sum(dim=1)
    return (target + gamma * temperature**2 * others).mean()


class NKD(Distiller):
    """Normalised soft targets (Yang et al. 2023, "From Knowledge Distillation to Self-Knowledge Distillation: A Unified
    Approach with Normalized Loss and Customized Soft Labels").

    The student's probability of the label is pulled up in proportion to the teacher's. In addition, the student learns
    the teacher's probabilities of the other classes, which are divided by their sum for both networks, so that they are
    comparable.

    *Of the paper*: both parts, and `gamma` of 1.5 with a temperature of 1 for ImageNet. *Of released code* (by the
    authors): the cross-entropy with weight 1, and the values of a config for CIFAR-100.

    Args:
        temperature: Temperature of the softmaxes over the other classes. The released config for CIFAR-100 has 3.
        gamma: Weight of the part of the other classes. The released config for CIFAR-100 has 3.5.
        nkd_weight: Weight of the whole loss.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
    """

    needs_labels = True
    one_label = True

    def __init__(self, *, temperature: float = 1.0, gamma: float = 1.5, nkd_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature=temperature)
        check_not_negative(gamma=gamma)
        self.set_weights(nkd_weight=nkd_weight)
        self.temperature, self.gamma = temperature, gamma

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        loss = nkd_loss(student.logits, teacher.logits, batch.labels, temperature=self.temperature, gamma=self.gamma)
        return {"nkd": self.nkd_weight * loss}
