"""RLD: soft targets that are refined by the labels (Sun et al. 2024)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import LogitDistiller
from kd_lightning.distillation.durations import Duration
from kd_lightning.errors import check_temperature
from kd_lightning.functional import full_precision, kd_loss, log_share
from kd_lightning.models import Features

_MASKED = -1e9
"""Logit of a class that is left out. Infinity would give NaN for a sample whose classes are all left out."""


@full_precision
def rld_losses(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    confidence_temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the losses SCD and MCD of RLD, averaged over samples (the authors' released code).

    SCD is T_c^2 KL between two pairs of probabilities: the teacher's of its top class and of the rest, and the
    student's of the label and of the rest. It teaches the teacher's confidence without its mistakes. MCD is T^2 KL
    between the softmaxes over the classes that the teacher ranks below the label. A class whose teacher logit is as
    large as that of the label, or larger, is left out, and so is the label. A sample in which at most one class is left
    has an MCD of 0. SCD is not minimal at student = teacher if the teacher's top class is not the label.

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        labels: Labels N, int64.
        temperature: Temperature T of MCD, above 0.
        confidence_temperature: Temperature T_c of SCD, above 0.
    """
    student = log_share(student_logits / confidence_temperature, labels)
    teacher = log_share(teacher_logits / confidence_temperature, teacher_logits.argmax(dim=1))
    confidence = F.kl_div(student, teacher, reduction="batchmean", log_target=True) * confidence_temperature**2
    left_out = teacher_logits >= teacher_logits.gather(1, labels[:, None])
    masked = (x.masked_fill(left_out, _MASKED * temperature) for x in (student_logits, teacher_logits))
    return confidence, kd_loss(*masked, temperature=temperature)


class RLD(LogitDistiller):
    """Refined soft targets (Sun et al. 2024, "Knowledge Distillation with Refined Logits").

    The labels correct the teacher where it is wrong. The term `scd` (sample confidence) teaches the student to give the
    label the confidence that the teacher has in its top class. The term `mcd` (masked correlation) teaches the
    teacher's probabilities of the classes that it ranks below the label. If the teacher is right, these are all classes
    except the label, as in DKD.

    The text of the paper was not available. *Of released code* (by the authors): both terms, the defaults, the weight
    1 of the cross-entropy, and the warm-up of 20 of 240 epochs.

    Args:
        temperature: Temperature of `mcd`. The released code has 4 on CIFAR-100 and 1 on ImageNet.
        confidence_temperature: Temperature of `scd`. The command of the released code's README has that of `mcd`
            (`--same-t`).
        scd_weight: Weight of `scd`.
        mcd_weight: Weight of `mcd`. The released code for ImageNet has 0.5, and 2 for MobileNet.
        warmup: Duration of the linear warm-up of both weights: a number of epochs, or a share of the run's epochs. The
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
        confidence_temperature: float = 1.0,
        scd_weight: float = 1.0,
        mcd_weight: float = 8.0,
        warmup: Duration = 20 / 240,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature=temperature, confidence_temperature=confidence_temperature)
        self.set_weights(scd_weight=scd_weight, mcd_weight=mcd_weight)
        self.set_durations(warmup=warmup)
        self.temperatures = {"temperature": temperature, "confidence_temperature": confidence_temperature}

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        logits = self.prepare_logits(student.logits, teacher.logits)
        confidence, masked = rld_losses(*logits, batch.labels, **self.temperatures)
        ramp = self.ramp("warmup")
        return {"scd": self.scd_weight * ramp * confidence, "mcd": self.mcd_weight * ramp * masked}
