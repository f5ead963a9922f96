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
    """Return RKD-D, the mean smooth L1 difference between the N,N distances in student and teacher (Eqs. 7, 8).

    The distances of each network are divided by the mean of the network's distances above 0. The loss is the mean over
    all pairs of samples, including the pairs of a sample with itself.

    Args:
        student: Embeddings of the student, N,D.
        teacher: Embeddings of the teacher, N,E.
    """
    return F.smooth_l1_loss(_distances(student), _distances(teacher))


@full_precision
def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return RKD-A, the mean smooth L1 difference between the cosines of N,N,N angles in both networks (Eqs. 9, 10).

    Three samples define an angle: it is at the first sample, between the lines to the second and the third sample. To
    save memory, the angles at a few samples are computed at a time.

    Args:
        student: Embeddings of the student, N,D.
        teacher: Embeddings of the teacher, N,E.
    """
    count = len(student)
    floats_each = count * (count + student.shape[1] + teacher.shape[1])
    pair = (student, teacher)
    return chunked_sum(_sum_angle_losses, *pair, floats_each=floats_each, whole=pair) / count**3


def _distances(vectors: Tensor) -> Tensor:
    # cdist's matrix products would be inaccurate for small distances
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    positive = distances > 0
    mean = (distances * positive).sum() / positive.sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1.0)


def _sum_angle_losses(student_corners: Tensor, teacher_corners: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    return F.smooth_l1_loss(_angles(student_corners, student), _angles(teacher_corners, teacher), reduction="sum")


def _angles(corners: Tensor, vectors: Tensor) -> Tensor:
    """Return the cosines M,N,N of angles: entry m,i,j is the angle at corner m between the lines to vectors i and j."""
    lines = normalize(vectors[None] - corners[:, None])
    return lines @ lines.transpose(1, 2)


class RKD(Distiller):
    """Relations between embeddings (Park et al. 2019, "Relational Knowledge Distillation").

    The student learns the distances between two samples of a batch, and the angles between three samples of a batch, in
    the teacher's embedding space.

    Args:
        distance_weight: Weight of the distances. The default is that of the paper and of RepDistiller.
        angle_weight: Weight of the angles. The cost of the angles grows with the cube of the batch size.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
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
