"""KDPlusPlus: the norm and the direction of the student's embedding (Wang et al. 2023)."""

from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import linear
from kd_lightning.distillation.class_centers import ClassCenters
from kd_lightning.distillation.durations import Duration
from kd_lightning.errors import ConfigError
from kd_lightning.functional import full_precision, kd_loss, normalize
from kd_lightning.models import Features, Reads


@full_precision
def norm_direction_loss(student: Tensor, teacher: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of 1 - <student_i, direction_i> / max(|student_i|, |teacher_i|) over N samples (KD++'s code).

    The direction of a sample is the center of its class, scaled to length 1. The gradient also reaches the student's
    norm where it is the larger of the two. The loss is not minimal at student = teacher, because the teacher's
    embedding of a sample has not the direction of the center. It is 0 for embeddings that have this direction, and at
    least the teacher's norm. Two embeddings that are both 0 give 1.

    Args:
        student: Embeddings of the student, mapped to the teacher's width, N,D.
        teacher: Embeddings of the teacher, N,D.
        centers: Mean embeddings of the teacher, K,D, for K classes.
        labels: Labels N, int64.
    """
    norms = torch.maximum(student.norm(dim=1), teacher.norm(dim=1))
    along = (student * normalize(centers)[labels]).sum(dim=1)
    return 1 - (along / torch.where(norms > 0, norms, 1.0)).mean()


class KDPlusPlus(Distiller):
    """KD++ (Wang et al. 2023, "Improving Knowledge Distillation via Regularizing Feature Norm and Direction").

    In addition to the soft targets, the student learns embeddings that have the direction of the teacher's mean
    embedding of their class, and that are at least as long as the teacher's embedding of the same image.

    The equation, the warm-up and the weights are of the released code, which computes the class centers by a script of
    its own, from augmented images, and rounds them to 4 decimals. Here, they are computed at the start of training,
    from the training images without augmentation, and are not rounded. This takes one pass of the teacher over these
    images. Checkpoints contain the centers. Inferred: the linear map for embeddings of unequal widths.

    Args:
        warmup: Duration in which the weight of the soft targets increases linearly: a number of epochs, or a share of
            the run. The released code has 20 of 240 epochs.
        norm_direction_weight: Weight of the norm and the direction. The default is that of ResNet-56 to ResNet-20. The
            released code has 2 with a `kd_weight` of 3.5 for ResNet-32x4 to ResNet-8x4, and 0.5 with 3 for ResNet-50 to
            MobileNetV2.
        kd_weight: Weight of the soft targets.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, student, optimizer and lr_scheduler.

    Raises:
        ConfigError: if the data have no classes, or mixed images.
    """

    needs_labels = True
    one_label = True

    def __init__(
        self,
        *,
        warmup: Duration = 20 / 240,
        norm_direction_weight: float = 2.0,
        kd_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(kd_weight=kd_weight, **kwargs)
        self.set_durations(warmup=warmup)
        self.set_weights(norm_direction_weight=norm_direction_weight)
        width, teacher_width = self.student.embedding_width, self.teacher.embedding_width
        if self.student.num_classes < 1:
            raise ConfigError("data.num_classes: KDPlusPlus reads labels, but the data have no classes; give labels")
        self.centers = ClassCenters(self.student.num_classes, teacher_width)
        self.head: nn.Module = nn.Identity() if width == teacher_width else linear(width, teacher_width)
        self._ddp_params_and_buffers_to_ignore += ["centers.bytes", "centers.source"]

    @property
    def reads(self) -> Reads:
        return Reads(embedding=True)

    def on_train_start(self) -> None:
        super().on_train_start()
        self.centers.compute(self.teacher, self.trainer.datamodule)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        pair = self.head(student.embedding), teacher.embedding
        loss = norm_direction_loss(*pair, self.centers(), batch.labels)
        terms = {"norm_direction": self.norm_direction_weight * loss}
        if self.kd_weight:
            soft = kd_loss(student.logits, teacher.logits, temperature=self.kd_temperature)
            terms["kd"] = self.ramp("warmup") * self.kd_weight * soft
        return terms
