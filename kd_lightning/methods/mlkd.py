"""MLKD: soft targets of images, classes and batches at several temperatures (Jin, Wang, Lin 2023)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import LogitDistiller
from kd_lightning.errors import ConfigError, check_temperature
from kd_lightning.functional import full_precision, kd_loss
from kd_lightning.models import Features


@full_precision
def class_correlation_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Return the squared differences between the matrices P^T P of both networks, summed and divided by K.

    P are the probabilities N,K of a batch, so that the K,K matrix relates the classes. There is no factor T^2. The
    matrix is a sum over the samples: the loss grows with the number of samples.

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        temperature: Temperature T of both softmaxes, above 0.
    """
    student, teacher = (torch.softmax(x / temperature, dim=1) for x in (student_logits, teacher_logits))
    return (student.T @ student - teacher.T @ teacher).square().sum() / student.shape[1]


@full_precision
def batch_correlation_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Return the squared differences between the matrices P P^T of both networks, summed and divided by N.

    P are the probabilities N,K of a batch, so that the N,N matrix relates the samples. There is no factor T^2. The
    matrix has N^2 entries: the loss grows with the number of samples.

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        temperature: Temperature T of both softmaxes, above 0.
    """
    student, teacher = (torch.softmax(x / temperature, dim=1) for x in (student_logits, teacher_logits))
    return (student @ student.T - teacher @ teacher.T).square().sum() / len(student)


class MLKD(LogitDistiller):
    """Multi-level logit distillation (Jin, Wang, Lin 2023, "Multi-Level Logit Distillation").

    Both networks see two views of each image: a weakly and a strongly augmented one (`data.views: 2`, with
    `data.view_augmentations` for the second view). For both views, the student learns the soft targets and the labels.
    For the weak view, it also learns how the classes correlate over a batch, and how the images of a batch correlate.
    Each loss is a sum over several temperatures. The cross-entropy `ce` is a sum over both views.

    *Of the paper* (as described by users of its code; its text was not available): the three terms on the weak view,
    and the soft targets on both views. *Of released code* (by the authors): the temperatures, all weights, and
    RandAugment with two operations of magnitude 10 for the strong view. That code differs from the paper, and the
    differences are not repeated here: a mask of confident samples multiplies losses that are already means, so that it
    halves them; at the temperatures 2 and 6, the losses of the strong view read the weak view; and both correlations
    of the strong view are computed and not used. With `standardize_logits`, only `instance` compares standardised
    logits, as in the released code of logit standardisation, which has an `instance_weight` of 9.

    Args:
        temperatures: Temperatures of the losses.
        instance_weight: Weight of the soft targets of both views.
        class_weight: Weight of the correlations between classes.
        batch_weight: Weight of the correlations between images. Both correlations grow with the batch size, and compare
            the images of all devices.
        ce_weight: Weight of the cross-entropy with the labels, summed over both views.
        **kwargs: `standardize_logits`, and the arguments of every distiller, such as teacher, kd_weight (for the weak
            view), student, optimizer and lr_scheduler.
    """

    min_views = 2

    def __init__(
        self,
        *,
        temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0),
        instance_weight: float = 0.9,
        class_weight: float = 0.9,
        batch_weight: float = 0.9,
        ce_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(ce_weight=ce_weight, **kwargs)
        if not temperatures:
            raise ConfigError("temperatures: the list is empty; give at least one temperature")
        check_temperature(**{f"temperatures[{number}]": each for number, each in enumerate(temperatures)})
        self.set_weights(instance_weight=instance_weight, class_weight=class_weight, batch_weight=batch_weight)
        self.temperatures = tuple(temperatures)

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        if data.mixing:
            raise ConfigError("data.mixing: MLKD reads a second view, which is not mixed; remove data.mixing")

    def inputs(self, batch: Batch) -> list[Tensor]:
        """Return the weak and the strong view. Each network runs once for each view."""
        return [batch.images, batch.views[0]]

    def losses(self, student: list[Features], teacher: list[Features], batch: Batch) -> dict[str, Tensor]:
        views = [tuple(each.logits for each in pair) for pair in zip(student, teacher, strict=True)]
        prepared, correlated = [self.prepare_logits(*view) for view in views], self.all_gather(*views[0])
        terms = {
            "instance": [kd_loss(*view, temperature=t) for view in prepared for t in self.temperatures],
            "class": [class_correlation_loss(*correlated, temperature=t) for t in self.temperatures],
            "batch": [batch_correlation_loss(*correlated, temperature=t) for t in self.temperatures],
        }
        weighted = {name: self.weights[f"{name}_weight"] * torch.stack(each).sum() for name, each in terms.items()}
        if not self.ce_weight:
            return weighted
        strong, weak = (self.cross_entropy(features.logits, batch) for features in reversed(student))
        return {"ce": self.ce_weight * (weak + strong), **weighted}
