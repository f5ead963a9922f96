"""SP: similarity-preserving knowledge distillation (Tung & Mori 2019)."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.functional import full_precision
from kd_lightning.methods.distiller import Distiller


def _row_normalised_gram(features: Tensor) -> Tensor:
    rows = features.flatten(1)
    # the loss does not change when all features are scaled alike, and so no product can overflow
    rows = rows / rows.detach().abs().amax().clamp(min=torch.finfo(rows.dtype).tiny)
    gram = rows @ rows.T
    norms = gram.norm(dim=1, keepdim=True)
    dead = norms < 1e-12  # a sample whose features are all zero has no direction, hence no gradient
    return torch.where(dead, torch.zeros_like(gram), gram / torch.where(dead, torch.ones_like(norms), norms))


@full_precision
def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """|G_teacher - G_student|^2 / N^2, G the N,N Gram matrix of the flattened features with each row of length 1.

    Tung & Mori 2019, Eqs. 2-4. It is the rows of the Gram matrix that are normalised: neither the features before it
    nor the matrix as a whole (two variants in circulation, both with other values).

    Args:
        student: N,... of any shape behind N; for the paper, the last feature map before pooling, N,C,H,W.
        teacher: N,... ; its channels and size may differ from the student's.
    """
    return (_row_normalised_gram(teacher) - _row_normalised_gram(student)).square().mean()


class SP(Distiller):
    """Similarity-preserving distillation (Tung & Mori 2019, "Similarity-Preserving Knowledge Distillation").

    Images that are alike to the teacher shall be alike to the student: the batch's N,N similarities of the last
    feature maps are matched. No projection is needed, whatever the two shapes are.

    Args:
        sp_weight: the paper's gamma; 3000 belongs to batches of about 128, for the loss itself falls as 1/N.
        **kwargs: teacher, ce_weight, check_teacher, student, optimizer and lr_scheduler, as for every distiller.
    """

    reads = frozenset({"maps"})

    def __init__(self, *, sp_weight: float = 3000.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sp_weight = sp_weight

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        student = self.student.features(batch.images, maps=1, logits=True)
        teacher = self.teach(batch.images, maps=1)
        return {
            **self.label_loss(student.logits, batch),
            "sp": self.sp_weight * sp_loss(student.maps[-1], teacher.maps[-1]),
        }
