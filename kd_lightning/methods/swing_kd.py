"""SwingKD: higher temperatures and noise for images at risk of a privacy leak, from an abstract (Li et al. 2022)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import check_between, check_not_negative, check_temperature
from kd_lightning.functional import full_precision, soften, target_divergence
from kd_lightning.models import Features, Reads
from kd_lightning.randomness import named_key, normal

_LEAST = 1e-8
"""Smallest noisy probability before the division by the sum."""


@full_precision
def confidence(teacher_logits: Tensor) -> Tensor:
    """Return the largest probability of each sample at a temperature of 1: N numbers from 1/K to 1. It is the risk.

    Args:
        teacher_logits: Logits of the teacher, N,K.
    """
    return F.softmax(teacher_logits, dim=1).amax(dim=1)


@full_precision
def swing_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperatures: Tensor) -> Tensor:
    """Return the mean of T_i^2 KL(softmax(teacher_i / T_i) || softmax(student_i / T_i)) over the samples i.

    The equation is inferred. If all temperatures are equal, it is KD's loss.

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        temperatures: Temperature T_i of each sample, N, above 0.
    """
    targets = F.softmax(soften(teacher_logits, temperatures), dim=1)
    return target_divergence(student_logits, targets, temperature=temperatures)


@full_precision
def noisy_targets(teacher_logits: Tensor, noise: Tensor, *, temperatures: Tensor) -> Tensor:
    """Return the teacher's probabilities plus noise, N,K. Each row has values above 0 and the sum 1.

    Sums below 1e-8 are replaced by 1e-8, and each row is divided by its sum. The equation is inferred.

    Args:
        teacher_logits: Logits of the teacher, N,K.
        noise: Numbers that are added to the probabilities, N,K.
        temperatures: Temperature T_i of each sample, N, above 0.
    """
    targets = (F.softmax(soften(teacher_logits, temperatures), dim=1) + noise).clamp(min=_LEAST)
    return targets / targets.sum(dim=1, keepdim=True)


class SwingKD(Distiller):
    """Swing distillation (Li et al. 2022, arXiv 2212.08349, "Swing Distillation: A Privacy-Preserving Knowledge
    Distillation Framework"). The paper's body could not be read: all equations are inferred from its abstract.

    The student learns soft targets that are meant to reveal less about single training images. Of the paper are two
    ideas for texts: the temperature of a token is higher if it is more likely to contain private information, and noise
    is added to the soft targets.

    The form for images is inferred. Image i has the temperature `temperature` x (1 + `k` x risk). Its risk is the
    teacher's largest class probability (at a temperature of 1), because networks tend to be more confident about images
    that they were trained with. The noise is normal, and independent for each image, class and epoch. With `k` 0 and
    `noise` 0, the loss is that of KD.

    The evaluator `MembershipInference` measures how well training images can be told from other images. Labels are a
    second source of leaks, which this method does not reduce: with `ce_weight` 0, the student learns only from the soft
    targets.

    Args:
        temperature: Temperature of an image whose risk is 0. The default is that of KD.
        k: Effect of the risk on the temperature; 0 disables it. The default is inferred.
        noise: Standard deviation of the noise that is added to each probability, from 0 to 1. The default is inferred.
        ce_weight: Weight of the cross-entropy with the labels. The default is that of KD.
        swing_weight: Weight of the soft targets. The default is that of KD.
        **kwargs: Arguments of every distiller, such as teacher, kd_weight, student, optimizer and lr_scheduler.
    """

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        k: float = 1.0,
        noise: float = 0.02,
        ce_weight: float = 0.1,
        swing_weight: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(ce_weight=ce_weight, **kwargs)
        check_temperature(temperature=temperature)
        check_not_negative(k=k)
        check_temperature(**{"temperature x (1 + k)": temperature * (1 + k)})
        check_between(0, 1, noise=noise)
        self.set_weights(swing_weight=swing_weight)
        self.temperature, self.k, self.noise = temperature, k, noise

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        temperatures = self.temperature * (1 + self.k * confidence(teacher.logits))
        if not self.noise:
            loss = swing_loss(student.logits, teacher.logits, temperatures=temperatures)
        else:
            classes = torch.arange(teacher.logits.shape[1], device=batch.keys.device)
            noise = self.noise * normal(named_key(batch.keys, "SwingKD")[:, None], classes)
            targets = noisy_targets(teacher.logits, noise, temperatures=temperatures)
            loss = target_divergence(student.logits, targets, temperature=temperatures)
        return {"swing": self.swing_weight * loss}
