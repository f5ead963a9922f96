"""SP: similarity-preserving knowledge distillation (Tung & Mori 2019)."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import check_positive
from kd_lightning.functional import full_precision, row_normalised_gram
from kd_lightning.methods.kd import kd_loss


@full_precision
def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """|G_teacher - G_student|^2 / N^2, G the N,N Gram matrix of the flattened features with each row of length 1.

    Tung & Mori 2019, Eqs. 2-4. It is the rows of the Gram matrix that are normalised: neither the features before it
    nor the matrix as a whole (two variants in circulation, both with other values).

    Args:
        student: N,... of any shape behind N; for the paper, the last feature map before pooling, N,C,H,W.
        teacher: N,... ; its channels and size may differ from the student's.
    """
    return (row_normalised_gram(teacher) - row_normalised_gram(student)).square().mean()


class SP(Distiller):
    """Similarity-preserving distillation (Tung & Mori 2019, "Similarity-Preserving Knowledge Distillation").

    Images that are alike to the teacher shall be alike to the student: the batch's N,N similarities of the last
    feature maps are matched. No projection is needed, whatever the two shapes are.

    Args:
        sp_weight: the paper's gamma; 3000 belongs to batches of about 128, for the loss itself falls as 1/N.
        layers: how many of the last stages' maps are matched, the last with the last and so on; their losses are added.
        kd_weight: of KD's soft targets beside it (0.9 with ce_weight 0.1, as KD has them); 0: none.
        temperature: of the soft targets.
        **kwargs: teacher, ce_weight, check_teacher, student, optimizer and lr_scheduler, as for every distiller.
    """

    reads = frozenset({"maps"})
    least_batch = 2

    def __init__(
        self,
        *,
        sp_weight: float = 3000.0,
        layers: int = 1,
        kd_weight: float = 0.0,
        temperature: float = 4.0,
        **kwargs: Any,
    ) -> None:
        if kd_weight:
            self.reads = self.reads | {"logits"}  # the teacher's classes are then checked
        super().__init__(**kwargs)
        self.check_layer("layers", layers)
        check_positive(temperature=temperature)
        self.check_weights(sp_weight=sp_weight, kd_weight=kd_weight)
        self.sp_weight, self.layers, self.kd_weight, self.temperature = sp_weight, layers, kd_weight, temperature

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        with_kd = self.kd_weight != 0
        student = self.student.features(batch.images, maps=self.layers, logits=self.needs_labels or with_kd)
        teacher = self.teach(batch.images, maps=self.layers, logits=with_kd)
        pairs = map(self.gathered, student.maps, teacher.maps)
        losses = self.label_loss(student.logits, batch)
        losses["sp"] = self.sp_weight * torch.stack([sp_loss(ours, theirs) for ours, theirs in pairs]).sum()
        if with_kd:
            soft = kd_loss(student.logits, teacher.logits, temperature=self.temperature)
            losses["kd"] = self.kd_weight * soft
        return losses
