"""CKD: contrastive distillation from a sample-wise perspective (Zhu et al. 2024)."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import check_temperature
from kd_lightning.functional import cross_entropy, full_precision, normalize
from kd_lightning.models import Features, Reads


@full_precision
def ckd_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Return the InfoNCE loss of the two networks' logits, with the teacher's samples as queries (CKD's code).

    C is the N,N matrix of the cosines between the teacher's logits (rows) and the student's logits (columns). The loss
    is the mean cross-entropy of the rows of C / T, in which column i is correct for row i. The student's logits of all
    other samples are the negatives.

    The loss depends only on the directions of the logits, and it grows as log N with the number of samples. It is not
    minimal at student = teacher, because the student's logits of two samples can be further apart than the teacher's.
    With T = 1 and cosines of 0 between different samples, it is log(1 + (N - 1) / e).

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        temperature: Temperature T of the cosines, above 0.
    """
    cosines = normalize(teacher_logits) @ normalize(student_logits).T
    return cross_entropy(cosines / temperature, torch.arange(len(cosines), device=cosines.device))


class CKD(Distiller):
    """Contrastive distillation (Zhu et al. 2024, arXiv 2404.14109, "CKD: Contrastive Knowledge Distillation from A
    Sample-wise Perspective").

    The student's logits of an image learn the direction of the teacher's logits of this image. They also learn to
    differ in direction from the teacher's logits of the other images of the batch.

    The text of the paper was not available. The equation and the defaults are of the released code. Only the batch over
    all devices was added here.

    Args:
        temperature: Temperature of the cosines. In the released code it is 1, and 2 for VGG-13 to MobileNetV2 and for
            WRN-40-2 to WRN-40-1.
        ckd_weight: Weight of the loss. The released code has 10 for ImageNet, for ResNet-110 to ResNet-32 and for
            ResNet-56 to ResNet-20, 50 for the two pairs with a temperature of 2, and 100 for its other pairs on CIFAR.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
    """

    min_batch_size = 2

    def __init__(self, *, temperature: float = 1.0, ckd_weight: float = 10.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature=temperature)
        self.set_weights(ckd_weight=ckd_weight)
        self.temperature = temperature

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        logits = self.all_gather(student.logits, teacher.logits)
        return {"ckd": self.ckd_weight * ckd_loss(*logits, temperature=self.temperature)}
