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
    """Return |G_teacher - G_student|^2 / N^2 (Tung & Mori 2019, Eqs. 2-4).

    G is the N,N Gram matrix of a network's flattened features, with each row normalised to length 1. Other programs use
    two variants that give other values. The first variant normalises the features instead of the Gram matrix. The
    second variant divides the Gram matrix by its Frobenius norm.

    Args:
        student: Features of the student, N,... of any shape. The paper uses the last feature map before pooling,
            N,C,H,W.
        teacher: Features of the teacher, N,... Their shape may differ from that of the student's features.
    """
    return (row_normalised_gram(teacher.flatten(1)) - row_normalised_gram(student.flatten(1))).square().mean()


class SP(Distiller):
    """Similarity-preserving distillation (Tung & Mori 2019, "Similarity-Preserving Knowledge Distillation").

    The student learns to have similar features for two images if the teacher has similar features for them. The loss
    compares the N,N similarities between the images of a batch, computed from the last feature maps. The feature maps
    of student and teacher may have different shapes, and no projection is needed.

    Args:
        sp_weight: Weight of the loss (the paper's gamma). 3000 is meant for batches of about 128 images, because the
            loss decreases as 1/N with the batch size N.
        layers: Number of stages whose feature maps are matched, counted back from the last stage. The last stage of the
            student is matched with the last stage of the teacher, and so on. The losses of all pairs are added.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
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
