"""WTTM: matching a power transform of the teacher's probabilities, with sample weights (Zheng & Yang 2024)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import check_between
from kd_lightning.functional import full_precision
from kd_lightning.models import Features, Reads


def _divergences(student_logits: Tensor, teacher_logits: Tensor, gamma: float) -> Tensor:
    """Return KL(q || softmax(student)) of each sample, N, where q is the transform of the teacher's probabilities."""
    student, teacher = F.log_softmax(student_logits, dim=1), F.log_softmax(gamma * teacher_logits, dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


@full_precision
def ttm_loss(student_logits: Tensor, teacher_logits: Tensor, *, gamma: float) -> Tensor:
    """Return KL(q || softmax(student)), averaged over samples (TTM). q_c is p_c^gamma / sum_k p_k^gamma.

    p are the teacher's probabilities. q is the teacher's softmax at the temperature 1 / gamma, but the student has no
    temperature. The loss is therefore not minimal at student = teacher, unless gamma is 1.

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        gamma: Exponent of the teacher's probabilities, above 0.
    """
    return _divergences(student_logits, teacher_logits, gamma).mean()


@full_precision
def wttm_loss(student_logits: Tensor, teacher_logits: Tensor, *, gamma: float) -> Tensor:
    """Return the mean over samples of TTM's divergence, multiplied by the power sum sum_k p_k^gamma (WTTM).

    The power sum is from 1, for a one-hot prediction of the teacher, to K^(1 - gamma), for a uniform one. A sample with
    smooth teacher probabilities has the largest weight. As with TTM, the loss is not minimal at student = teacher.

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        gamma: Exponent of the teacher's probabilities, above 0.
    """
    power_sums = (gamma * F.log_softmax(teacher_logits, dim=1)).logsumexp(dim=1).exp()
    return (power_sums * _divergences(student_logits, teacher_logits, gamma)).mean()


class WTTM(Distiller):
    """Transformed teacher matching, TTM and WTTM (Zheng & Yang 2024, "Knowledge Distillation Based on Transformed
    Teacher Matching").

    The student learns the teacher's probabilities after a power transform, which makes them smoother. Unlike in KD, the
    student's softmax has no temperature. The paper shows that this adds a Renyi entropy to KD's loss, which
    regularises the student. WTTM also gives each image a weight, which is larger if the teacher is less certain.

    *Of the paper*: both losses. *Of released code* (by the authors): the cross-entropy with weight 1, and the values of
    two commands in its README. They are `gamma` of 0.1 with the weight 45 for TTM, and `gamma` of 0.2 with the weight 4
    for WTTM together with CRD, which are the defaults here. The README has no command for WTTM alone.

    Args:
        gamma: Exponent of the teacher's probabilities, above 0 and at most 1. Its inverse is the teacher's temperature.
        weighted: Whether the images have weights (WTTM). With false, the method is TTM.
        wttm_weight: Weight of the loss. The weights of the images grow with the number of classes, so that WTTM needs a
            smaller value than TTM.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
    """

    def __init__(self, *, gamma: float = 0.2, weighted: bool = True, wttm_weight: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_between(1e-3, 1, gamma=gamma)
        self.set_weights(wttm_weight=wttm_weight)
        self.gamma, self.weighted = gamma, weighted

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        loss = wttm_loss if self.weighted else ttm_loss
        return {"wttm": self.wttm_weight * loss(student.logits, teacher.logits, gamma=self.gamma)}
