"""NeighborOverlap: whether images have the same nearest neighbours in two embeddings."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from kd_lightning.errors import check_positive
from kd_lightning.metrics.cka import check_pair
from kd_lightning.metrics.cosines import cosine_rows, mask_self
from kd_lightning.metrics.states import concatenate, gather_rows


class NeighborOverlap(Metric):
    """Share of an image's k nearest neighbours, by cosine, that are the same in two embeddings: 0 to 1.

    The embeddings may have different widths. A student can therefore be compared with its teacher without a mapping
    between them, as in the evaluation of CoSS. Two unrelated embeddings of N images share k / (N - 1) by chance.

    Args:
        k: Number of neighbours, limited to the number of other images. For a sequence, the result is a dict.
        max_images: Largest number of images per device. Further images are ignored, because all pairs are compared.
    """

    higher_is_better = True
    full_state_update = False
    student: list[Tensor]
    teacher: list[Tensor]

    def __init__(self, *, k: int | Sequence[int] = 10, max_images: int = 5000) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        self.k, self.max_images = k, max_images
        self.add_state("student", [], dist_reduce_fx="cat")
        self.add_state("teacher", [], dist_reduce_fx="cat")

    def update(self, student: Tensor, teacher: Tensor) -> None:
        """Add images: N,D and N,E."""
        room = max(0, self.max_images - sum(map(len, self.student)))
        self.student.append(student[:room].detach().float())
        self.teacher.append(teacher[:room].detach().float())

    def compute(self) -> Tensor | dict[int, Tensor]:
        """Return the mean over images. It is 0 for fewer than two images, and NaN if a value is not finite."""
        student, teacher = concatenate(self.student), concatenate(self.teacher)
        ks = (self.k,) if isinstance(self.k, int) else self.k
        shares = neighbor_overlap(student, teacher, ks) if len(student) else dict.fromkeys(ks, 0.0)
        overlaps = {k: torch.tensor(share, device=self.device) for k, share in shares.items()}
        return overlaps[self.k] if isinstance(self.k, int) else overlaps


def neighbor_overlap(student: Tensor, teacher: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """Return `NeighborOverlap` for several k in one pass over chunks of rows.

    The chunks avoid an N x N matrix, for example for 50,000 images. The values are 0 for fewer than two images, and NaN
    if an embedding is not finite.

    Args:
        student: Embeddings of the student, N,D. They are converted to float32.
        teacher: Embeddings of the teacher, N,E.
        ks: Values of k, each above 0. Values above N - 1 are replaced by N - 1.

    Raises:
        ConfigError: if a k is below 1, or if the embeddings have different numbers of images.
    """
    for k in ks:
        check_positive(k=k)
    check_pair(student, teacher)
    max_k = min(max(ks, default=1), len(student) - 1)
    if max_k < 1:
        return dict.fromkeys(ks, 0.0)
    if not (student.isfinite().all() and teacher.isfinite().all()):
        return dict.fromkeys(ks, math.nan)
    num_neighbors = {k: min(k, max_k) for k in ks}
    shared = dict.fromkeys(num_neighbors.values(), 0)
    pairs = zip(cosine_rows(student, student), cosine_rows(teacher, teacher), strict=True)
    for (rows, student_cosines), (_, teacher_cosines) in pairs:
        student_nearest, teacher_nearest = (
            mask_self(cosines, rows).topk(max_k, dim=1).indices for cosines in (student_cosines, teacher_cosines)
        )
        same = student_nearest[:, :, None] == teacher_nearest[:, None, :]
        for k in shared:
            shared[k] += same[:, :k, :k].sum()
    return {k: float(shared[count]) / (count * len(student)) for k, count in num_neighbors.items()}
