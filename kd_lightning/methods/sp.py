"""SP: similarity-preserving knowledge distillation (Tung & Mori 2019)."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.functional import full_precision, row_normalised_gram
from kd_lightning.models import Features, Reads


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
        **kwargs: teacher, ce_weight, kd_weight, student, optimizer and lr_scheduler, as for every distiller.
    """

    min_batch_size = 2

    def __init__(self, *, sp_weight: float = 3000.0, layers: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check_layer("layers", layers)
        self.set_weights(sp_weight=sp_weight)
        self.layers = layers

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.layers)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        pairs = map(self.all_gather, student.maps, teacher.maps)
        return {"sp": self.sp_weight * torch.stack([sp_loss(*maps) for maps in pairs]).sum()}
