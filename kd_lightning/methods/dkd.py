"""DKD: soft targets, decoupled into the target class and the other classes (Zhao et al. 2022)."""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import LogitDistiller
from kd_lightning.distillation.durations import Duration
from kd_lightning.errors import check_not_negative, check_temperature
from kd_lightning.functional import full_precision, kd_loss, log_share, other_classes
from kd_lightning.models import Features


@full_precision
def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Return alpha TCKD + beta NCKD, each a T^2 KL(teacher || student), averaged over samples (DKD, Eq. 7).

    TCKD compares the probabilities of the label and of all other classes together. NCKD compares the softmaxes over
    the other classes alone, so that the label has no share of them. With two classes, NCKD is 0.

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        labels: Labels N, int64.
        temperature: Temperature T of all softmaxes, above 0.
        alpha: Weight of TCKD.
        beta: Weight of NCKD.
        reduction: With `none`, return the N values of the samples instead of their mean.
    """
    student, teacher = (log_share(x / temperature, labels) for x in (student_logits, teacher_logits))
    target = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1) * temperature**2
    others = (other_classes(x, labels) for x in (student_logits, teacher_logits))
    losses = alpha * target + beta * kd_loss(*others, temperature=temperature, reduction="none")
    return losses.mean() if reduction == "mean" else losses


class DKD(LogitDistiller):
    """Decoupled soft targets (Zhao et al. 2022, "Decoupled Knowledge Distillation").

    KD's loss is a sum of two parts, and it weights the second part by 1 - p, where p is the teacher's probability of
    the label. The part TCKD teaches how difficult the image is: p against all other classes. The part NCKD teaches the
    teacher's probabilities of the other classes. DKD gives both parts weights of their own.

    *Of the paper*: both parts, and `alpha` of 1. *Of released code* (mdistiller, by the authors): the defaults, the
    weight 1 of the cross-entropy, and the warm-up of 20 of 240 epochs. That code subtracts 1,000 from the logit of the
    label; here, the label is left out, which also holds for larger gaps between logits.

    Args:
        temperature: Temperature of all softmaxes. The released code has 4 on CIFAR-100 and 1 on ImageNet.
        alpha: Weight of TCKD.
        beta: Weight of NCKD. The released code for CIFAR-100 has 2 for ResNet-56 to ResNet-20 and for ResNet-110 to
            ResNet-32, 6 for pairs of VGGs and of WRNs, and 8 for ResNet-32x4 and ResNet-50. For ImageNet it has 0.5
            and, for MobileNet, 2.
        dkd_weight: Weight of the whole loss.
        warmup: Duration of the linear warm-up of `dkd_weight`: a number of epochs, or a share of the run's epochs. The
            released code for ImageNet has 1 epoch.
        **kwargs: `standardize_logits`, and the arguments of every distiller, such as teacher, ce_weight, kd_weight,
            student, optimizer and lr_scheduler.
    """

    needs_labels = True
    one_label = True

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        dkd_weight: float = 1.0,
        warmup: Duration = 20 / 240,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature=temperature)
        check_not_negative(alpha=alpha, beta=beta)
        self.set_weights(dkd_weight=dkd_weight)
        self.set_durations(warmup=warmup)
        self.settings = {"temperature": temperature, "alpha": alpha, "beta": beta}

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        logits = self.prepare_logits(student.logits, teacher.logits)
        return {"dkd": self.dkd_weight * self.ramp("warmup") * dkd_loss(*logits, batch.labels, **self.settings)}
