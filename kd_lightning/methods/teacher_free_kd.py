"""TeacherFreeKD: soft targets of a virtual teacher, or of a trained copy of the student (Yuan et al. 2020)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import FurtherNetwork, StudentModule, checks
from kd_lightning.errors import ConfigError, check_between, check_temperature
from kd_lightning.functional import full_precision, kd_loss, target_divergence
from kd_lightning.models import Features, Network, Reads


@full_precision
def virtual_teacher_loss(logits: Tensor, labels: Tensor, *, temperature: float = 20.0, correct: float = 0.99) -> Tensor:
    """Return KL(softmax(q / T) || softmax(logits)), averaged over samples (the authors' released code, Tf-KD_reg).

    q are the probabilities of a virtual teacher: `correct` for the label, and (1 - correct) / (K - 1) for each other
    class. As in the released code, the probabilities are divided by T and not their logarithms, so that the target is
    nearly uniform, and the student has no temperature. That code averages over samples and classes; here, the mean is
    over samples, as in the paper.

    Args:
        logits: Logits of the student, N,K.
        labels: Labels N, int64.
        temperature: Temperature T of the virtual teacher, above 0.
        correct: Probability of the label according to the virtual teacher.
    """
    classes = logits.shape[1]
    teacher = torch.full_like(logits, (1 - correct) / (classes - 1)).scatter(1, labels[:, None], correct)
    return target_divergence(logits, F.softmax(teacher / temperature, dim=1), temperature=1.0)


class TeacherFreeKD(StudentModule):
    """Distillation without a larger teacher, Tf-KD (Yuan et al. 2020, "Revisiting Knowledge Distillation via Label
    Smoothing Regularization").

    There are two forms. By default (Tf-KD_reg), the soft targets come from a virtual teacher, which gives the label a
    probability of 0.99 and all other classes the same probability. It regularises like label smoothing. With
    `checkpoint` (Tf-KD_self), the soft targets come from a trained copy of the student. First train the student with
    `Supervised`, and give its `student.safetensors`.

    *Of the paper*: both forms, and (1 - a) and a as the weights of the cross-entropy and of the soft targets. *Of
    released code* (by the authors): the target of the virtual teacher (see `virtual_teacher_loss`), the temperature 20,
    and a = 0.1 for the virtual teacher, which is the default here. A config for the copy has a = 0.95: set `ce_weight`
    to 0.05 and `soft_weight` to 0.95. The released code divides the soft targets by the number of classes, and some of
    its configs multiply them by 10 or 50. Here, they are not divided.

    Args:
        student: Network that is trained.
        checkpoint: Path of the weights of a trained copy of the student. Default: none, which means that the teacher is
            virtual.
        temperature: Temperature of the virtual teacher, or of both softmaxes with a copy.
        correct: Probability of the label according to the virtual teacher.
        ce_weight: Weight of the cross-entropy with the labels.
        soft_weight: Weight of the soft targets.
        **kwargs: Arguments of every method, such as optimizer and lr_scheduler.

    Raises:
        ConfigError: if the weights are not those of a copy of the student, or have another number of classes, or
            if there is only one class.
    """

    def __init__(
        self,
        *,
        student: Network,
        checkpoint: str | None = None,
        temperature: float = 20.0,
        correct: float = 0.99,
        ce_weight: float = 0.9,
        soft_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(student=student, ce_weight=ce_weight, **kwargs)
        check_temperature(temperature=temperature)
        check_between(0, 1, correct=correct)
        checks.check_two_classes("TeacherFreeKD", student)
        self.set_weights(soft_weight=soft_weight)
        self.temperature, self.correct = temperature, correct
        self.copy: Network | None = None
        if checkpoint is not None:
            self.add_frozen("copy", _trained_copy(student, checkpoint))

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    @property
    def further(self) -> Mapping[str, FurtherNetwork]:
        return {} if self.copy is None else {"copy": FurtherNetwork(self.copy, Reads(logits=True))}

    @property
    def one_label(self) -> bool:
        return self.copy is None and self.soft_weight != 0

    @property
    def needs_labels(self) -> bool:
        return super().needs_labels or self.one_label

    def losses(self, student: Features, batch: Batch, copy: Features | None = None) -> dict[str, Tensor]:
        if copy is None:
            settings = {"temperature": self.temperature, "correct": self.correct}
            loss = virtual_teacher_loss(student.logits, batch.labels, **settings)
        else:
            loss = kd_loss(student.logits, copy.logits, temperature=self.temperature)
        return {"soft": self.soft_weight * loss}


def _trained_copy(student: Network, checkpoint: str) -> Network:
    """Return a network like the student with the weights of a file, for images that are normalised alike."""
    facts = {name: value for name, value in student.facts().items() if name in ("mean", "std", "size")}
    try:
        copy = Network(student.name, checkpoint=checkpoint, model_kwargs=student.model_kwargs, **facts)
    except ConfigError as error:
        raise ConfigError(f"model.checkpoint: {str(error).removeprefix(f'{student.name}: checkpoint: ')}") from error
    if copy.num_classes != student.num_classes:
        raise ConfigError(
            f"model.checkpoint: the weights have {copy.num_classes} classes, but the student and the data have "
            f"{student.num_classes}; train the copy on these data first"
        )
    return copy
