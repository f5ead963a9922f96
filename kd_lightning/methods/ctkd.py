"""CTKD: soft targets at a temperature that is trained against the student (Li et al. 2023)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import LogitDistiller
from kd_lightning.distillation.durations import Duration
from kd_lightning.functional import full_precision, kd_loss
from kd_lightning.models import Features

_LOW, _RANGE = 1.0, 20.0


def curriculum(epoch: Tensor, *, epochs: float = 10) -> Tensor:
    """Return lambda, the factor of the temperature's gradient: a cosine from 0 to -1 in the first epochs, then -1.

    Args:
        epoch: Number of the epoch, from 1, a scalar.
        epochs: Number of epochs until -1 is reached. With 0, lambda is always -1.
    """
    progress = (epoch / (epochs or 1)).clamp(max=1)
    return ((math.pi * progress).cos() + 1) / 2 - 1


class GlobalTemperature(nn.Module):
    """One temperature for all images: T = 1 + 20 sigmoid(theta), with a trained number theta that begins at 1.

    The gradient of theta is multiplied by a factor (gradient reversal, Ganin & Lempitsky 2015), so that plain gradient
    descent raises the loss for a negative factor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(()))

    def forward(self, factor: Tensor | float) -> Tensor:
        """Return T, a scalar. The gradient of theta is multiplied by `factor`, a scalar."""
        return _temperature(self.theta, factor)


@full_precision
def _temperature(theta: Tensor, factor: Tensor | float) -> Tensor:
    reversed_theta = theta.detach() + factor * (theta - theta.detach())
    return _LOW + _RANGE * reversed_theta.sigmoid()


class CTKD(LogitDistiller):
    """Curriculum temperature (Li et al. 2023, "Curriculum Temperature for Knowledge Distillation").

    The student learns KD's soft targets at a temperature that is trained as well. The student minimises the loss, and
    the temperature maximises it, so that the task becomes more difficult during the training. The factor of the
    temperature's gradient changes from 0 to -1 in the first epochs, along a cosine.

    *Of the paper*: the adversarial temperature and the curriculum. *Of released code* (by the authors): the one
    temperature for all images, 1 + 20 sigmoid(theta) with theta = 1 at the start (15.6), and all defaults. As there,
    T^2 has a gradient too, and theta is in the student's optimizer, with its weight decay. The form with a temperature
    for each image is not implemented. The temperature is logged as `train/temperature`. It is not a part of the
    student that is saved.

    Args:
        ce_weight: Weight of the cross-entropy with the labels.
        ctkd_weight: Weight of the soft targets.
        warmup: Duration of the curriculum: a number of epochs, or a share of the run's epochs. The released code has 10
            of 240 epochs on CIFAR-100, and 5 on ImageNet.
        **kwargs: `standardize_logits`, and the arguments of every distiller, such as teacher, kd_weight, student,
            optimizer and lr_scheduler.
    """

    def __init__(
        self, *, ce_weight: float = 0.1, ctkd_weight: float = 0.9, warmup: Duration = 10 / 240, **kwargs: Any
    ) -> None:
        super().__init__(ce_weight=ce_weight, **kwargs)
        self.set_weights(ctkd_weight=ctkd_weight)
        self.set_durations(warmup=warmup)
        self.temperature = GlobalTemperature()

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        temperature = self.temperature(curriculum(self.epoch, epochs=self.in_epochs("warmup")))
        self.record("temperature", lambda: temperature)
        logits = self.prepare_logits(student.logits, teacher.logits)
        return {"ctkd": self.ctkd_weight * kd_loss(*logits, temperature=temperature)}
