"""MHKD: knowledge distillation at heads on several stages (Wang et al. 2020)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.heads import StageHead, convolutional_head, heads_on, stages_with_heads
from kd_lightning.errors import ConfigError, check_between, check_positive, check_temperature
from kd_lightning.functional import full_precision, kd_loss, mixed_cross_entropy
from kd_lightning.models import Features, Reads


@full_precision
def head_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    labels: Tensor,
    partner_labels: Tensor | None = None,
    mix_lambda: Tensor | None = None,
    alpha: float = 0.1,
    temperature: float = 4.0,
) -> Tensor:
    """Return (1 - alpha) CE(student, labels) + alpha T^2 KL(softmax(teacher / T) || softmax(student / T)).

    No gradient reaches the teacher's logits. They are those of a head that is trained, and would otherwise be pulled to
    the logits of the student. The loss is not minimal at student = teacher, because of the cross-entropy.

    Args:
        student_logits: Logits of the student, or of one of its heads, N,K.
        teacher_logits: Logits of the teacher, or of its head on the same stage, N,K.
        labels: Labels N, int64.
        partner_labels: Labels N, int64, of the images that were mixed into these images.
        mix_lambda: Weights N, in [0, 1], of `labels`; None if no image is mixed.
        alpha: Share of the divergence, from 0 to 1.
        temperature: Temperature T of both softmaxes, above 0.
    """
    own = mixed_cross_entropy(student_logits, labels, partner_labels, mix_lambda)
    return (1 - alpha) * own + alpha * kd_loss(student_logits, teacher_logits.detach(), temperature=temperature)


class MHKD(Distiller):
    """Heads on stages of both networks (Wang, Lohit, Jones, Fu 2020, "Multi-head Knowledge Distillation for Model
    Compression").

    Student and teacher get a classifier on several stages, called a head. The heads of the teacher learn the labels,
    while the teacher itself stays frozen. Each head of the student learns the labels and the soft targets of the
    teacher's head on the stage with the same number. The final classifier learns by KD (`ce_weight` and `kd_weight`).
    The student is saved and exported without its heads. Checkpoints keep them, so that `EarlyExits` can evaluate them.

    *Of the paper* (its abstract; the body could not be read): heads on intermediate stages of both networks, which need
    no alignment of widths. *Of third-party code* (a re-implementation by other authors): the layers of a head, all
    weights, `alpha` and the temperature. *Inferred*: no gradient of the divergence reaches the teacher's heads. In the
    third-party code, it pulls them to the student. The convolutions of a head are padded here, so that they accept maps
    of any size; in the third-party code, a map needs 5 positions in each direction.

    Args:
        stages: Numbers of the stages with a head, counted back from the last stage, which has the number 1 and no head.
            Default: all stages except the first, which is the stem in most networks, and the last. If both networks
            have more than five stages (the blocks of ViTs), three stages.
        head_width: Number of channels of the heads.
        heads_weight: Weight of the sum of the losses of the student's heads.
        teacher_heads_weight: Weight of the sum of the cross-entropies of the teacher's heads.
        alpha: Share of the soft targets in the loss of a head. The other share is that of the labels.
        temperature: Temperature of both softmaxes of the soft targets, at the heads and at the final classifier.
        ce_weight: Weight of the cross-entropy of the final classifier.
        kd_weight: Weight of the soft targets at the final classifier. With 0, the teacher may have been trained on
            other classes.
        **kwargs: Arguments of every distiller, such as teacher, check_teacher, student, optimizer and lr_scheduler.
    """

    def __init__(
        self,
        *,
        stages: Sequence[int] | None = None,
        head_width: int = 256,
        heads_weight: float = 0.5,
        teacher_heads_weight: float = 1.0,
        alpha: float = 0.1,
        temperature: float = 4.0,
        ce_weight: float = 0.9,
        kd_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        check_temperature(temperature=temperature)
        super().__init__(ce_weight=ce_weight, kd_weight=kd_weight, kd_temperature=temperature, **kwargs)
        check_between(0, 1, alpha=alpha)
        check_positive(head_width=head_width)
        self.set_weights(heads_weight=heads_weight, teacher_heads_weight=teacher_heads_weight)
        self.alpha, self.stages = alpha, stages_with_heads(stages, self.student, self.teacher)

        def head(channels: int, reduction: int) -> StageHead:
            return convolutional_head(channels, self.student.num_classes, width=head_width)

        self.heads = heads_on(self.student, self.stages, head)
        self.teacher_heads = heads_on(self.teacher, self.stages, head)

    def check_terms(self, *, ce_weight: float, kd_weight: float) -> None:
        if not (ce_weight or kd_weight):
            raise ConfigError(
                "ce_weight: 0 is given, and kd_weight is 0, but without labels and soft targets, the stages after the "
                "last head learn nothing; set ce_weight or kd_weight above 0"
            )
        if self.heads_weight and self.alpha and not self.teacher_heads_weight:
            raise ConfigError(
                "teacher_heads_weight: 0 is given, but the heads of the student learn from those of the teacher, which "
                "would stay random; set it above 0, or set alpha or heads_weight to 0"
            )

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.stages[0])

    @property
    def exits(self) -> Mapping[int, nn.Module]:
        return {number: self.heads[str(number)] for number in self.stages}

    @property
    def needs_labels(self) -> bool:
        return super().needs_labels or self.heads_weight != 0 or self.teacher_heads_weight != 0

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        labels = {"labels": batch.labels, "partner_labels": batch.partner_labels, "mix_lambda": batch.mix_lambda}
        settings = {"alpha": self.alpha, "temperature": self.kd_temperature}
        losses: dict[str, list[Tensor]] = {"heads": [], "teacher_heads": []}
        for number in self.stages:
            teacher_logits = self.teacher_heads[str(number)](teacher.maps[-number])
            if self.teacher_heads_weight:
                losses["teacher_heads"].append(mixed_cross_entropy(teacher_logits, **labels))
            if self.heads_weight:
                logits = self.heads[str(number)](student.maps[-number])
                losses["heads"].append(head_loss(logits, teacher_logits, **labels, **settings))
        return {name: self.weights[f"{name}_weight"] * torch.stack(each).sum() for name, each in losses.items() if each}
