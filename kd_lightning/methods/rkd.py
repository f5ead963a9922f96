"""RKD: relational knowledge distillation (Park et al. 2019)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.functional import chunked_sum, full_precision, normalize
from kd_lightning.models import Features, Reads


@full_precision
def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-D: the smooth L1 difference of all distances N,N, each network's in units of its own mean (Eq. 7, 8).

    The mean is over the distances above 0; the loss over all pairs, a sample with itself included.

    Args:
        student: N,D.
        teacher: N,E.
    """
    return F.smooth_l1_loss(_distances(student), _distances(teacher))


@full_precision
def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-A: the smooth L1 difference of the cosines of all angles N,N,N between three samples (Eq. 9, 10).

    The angles at some samples at a time are held, not all.

    Args:
        student: N,D.
        teacher: N,E.
    """
    count = len(student)
    floats_each = count * (count + student.shape[1] + teacher.shape[1])
    every = (student, teacher)
    return chunked_sum(_angles_apart, *every, floats_each=floats_each, whole=every) / count**3


def _distances(vectors: Tensor) -> Tensor:
    # not by matrix products, which lose the small distances
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    apart = distances > 0
    mean = (distances * apart).sum() / apart.sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1.0)


def _angles_apart(students: Tensor, teachers: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    return F.smooth_l1_loss(_angles(students, student), _angles(teachers, teacher), reduction="sum")


def _angles(corners: Tensor, vectors: Tensor) -> Tensor:
    """M,N,N cosines of the angles at M corners between the lines to any two of N vectors."""
    lines = normalize(vectors[None] - corners[:, None])
    return lines @ lines.transpose(1, 2)


class RKD(Distiller):
    """Relations (Park et al. 2019, "Relational Knowledge Distillation"), between embeddings.

    Args:
        distance_weight: weight of the distances; the paper's and RepDistiller's.
        angle_weight: weight of the angles, whose cost grows with the cube of the batch.
        **kwargs: teacher, ce_weight, kd_weight, student, optimizer and lr_scheduler, as for every distiller.
    """

    min_batch_size = 3

    def __init__(self, *, distance_weight: float = 25.0, angle_weight: float = 50.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_weights(distance_weight=distance_weight, angle_weight=angle_weight)

    @property
    def reads(self) -> Reads:
        return Reads(embedding=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        losses, vectors = {}, self.all_gather(student.embedding, teacher.embedding)
        if self.distance_weight:
            losses["distance"] = self.distance_weight * rkd_distance_loss(*vectors)
        if self.angle_weight:
            losses["angle"] = self.angle_weight * rkd_angle_loss(*vectors)
        return losses
