"""CPCL: contrastive principal component learning (Han, Ye, Zhan 2022), with a teacher's embedding as the target."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MLP

from kd_lightning.batch import Batch
from kd_lightning.distillation import EmbeddingDistiller, Inputs
from kd_lightning.errors import check_not_negative, check_positive, check_temperature
from kd_lightning.functional import full_precision, normalize
from kd_lightning.models import Features

SELF_SUPERVISED_WIDTH = 128
"""Width of the head's output in the self-supervised form, as in the authors' released code."""


@full_precision
def principal_component_loss(view: Tensor, other_view: Tensor, *, temperature: float = 0.5, k: float = 1.0) -> Tensor:
    """Return -2 x the mean of the positives + k x the mean of the squared negatives (the authors' released code).

    All values are cosines divided by the temperature. The positives are those of the two views of a sample. The
    negatives are those of all other pairs of the 2N vectors, except a vector with itself. Copies of a sample are
    negatives. One sample has no negatives. The loss is not minimal at view = other_view, because of the negatives.

    Args:
        view: Embeddings of the student for one view of N samples, N,D.
        other_view: Embeddings of the student for another view of the same samples, N,D.
        temperature: Divisor of the cosines, above 0.
        k: Weight of the negatives, above 0.
    """
    vectors = normalize(torch.cat([view, other_view]))
    similarities = vectors @ vectors.T / temperature
    count = len(view)
    same_sample = torch.eye(count, dtype=torch.bool, device=view.device).repeat(2, 2)
    negatives = similarities.square().masked_fill(same_sample, 0).sum() / max(1, 4 * count * (count - 1))
    positives = similarities.diagonal(count).mean()
    return k * negatives - 2 * positives


@full_precision
def projection_loss(embedding: Tensor, target: Tensor, *, normalized: bool = False) -> Tensor:
    """Return the mean squared difference between an embedding and its target, over all elements.

    Args:
        embedding: Embeddings of the student, N,D.
        target: Targets, N,D. The function does not detach them.
        normalized: Whether embeddings and targets are scaled to length 1 first.
    """
    if normalized:
        embedding, target = normalize(embedding), normalize(target)
    return F.mse_loss(embedding, target)


class CPCL(EmbeddingDistiller):
    """Principal components of views (Han, Ye, Zhan 2022, arXiv 2206.00471v1, "Contrastive Principal Component Learning:
    Modeling Similarity by Augmentation Overlap").

    The student sees three views of each image (`data.views: 3`). It learns similar embeddings for the second and the
    third view of an image, and orthogonal embeddings for views of different images. The term is that of all devices.
    In addition, its embedding of the first view is projected onto a target. The method needs no labels.

    CPCL is a self-supervised method. Its text was not available. Of the released code (of the version at ICLR 2023,
    "Augmentation Component Analysis") are both terms, the defaults and the three passes of the student. Inferred is the
    form `target: teacher`, the default: the target is the teacher's embedding of the first view. `principal` does not
    depend on the teacher. With `target: views`, the target is the mean of the student's outputs for the second and
    the third view, without gradient, as in the released code. The teacher then teaches nothing, unless `kd_weight` is
    above 0. It does not run in the training steps. A run needs a teacher nevertheless, because the evaluation
    compares the student with it (`val/neighbors`).

    A head (Linear, ReLU, Linear) maps the student's embedding to the width of the teacher's embedding if the widths
    differ. With `target: views`, it always exists and has 128 outputs. The head is dropped after training.

    Args:
        target: Target of the projection: the embedding of the `teacher`, or the mean of the student's other `views`.
        hidden: Width of the hidden layer of the head. With 0, the head is a single linear layer. Default: the width of
            the student's embedding.
        temperature: Divisor of the cosines between the views.
        k: Weight of the negatives in the term `principal`, relative to the positives.
        normalized: Whether the projection compares vectors of length 1. Use true if the lengths of the teacher's
            embeddings do not matter.
        principal_weight: Weight of the loss of the second and the third view.
        projection_weight: Weight of the projection. The default is that of the released code for CIFAR; it is 0.5 for
            STL-10 and 0.1 for Tiny-ImageNet.
        ce_weight: Weight of the cross-entropy with the labels, for the first view. The paper has no such term.
        **kwargs: Arguments of every distiller, such as teacher, kd_weight, student, optimizer and lr_scheduler.
    """

    min_views = 3

    def __init__(
        self,
        *,
        target: Literal["teacher", "views"] = "teacher",
        hidden: int | None = None,
        temperature: float = 0.5,
        k: float = 1.0,
        normalized: bool = False,
        principal_weight: float = 1.0,
        projection_weight: float = 1.0,
        ce_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(ce_weight=ce_weight, **kwargs)
        check_temperature(temperature=temperature)
        check_positive(k=k)
        width = self.student.embedding_width
        hidden = width if hidden is None else hidden
        check_not_negative(hidden=hidden)
        self.set_weights(principal_weight=principal_weight, projection_weight=projection_weight)
        self.target, self.temperature, self.k, self.normalized = target, temperature, k, normalized
        output = self.teacher.embedding_width if target == "teacher" else SELF_SUPERVISED_WIDTH
        self.head: nn.Module = nn.Identity()
        if target == "views" or width != output:
            self.head = MLP(width, [hidden, output]) if hidden else nn.Linear(width, output)

    @property
    def min_batch_size(self) -> int:
        return 2 if self.principal_weight else 1

    def inputs(self, batch: Batch) -> Inputs:
        """Return three views for the student, and the first view for the teacher if a term depends on it."""
        teaches = self.target == "teacher" or self.kd_weight
        return Inputs([batch.images, *batch.views[:2]], [batch.images] if teaches else [])

    def aligned_pair(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor] | None:
        return super().aligned_pair(student, teacher) if self.target == "teacher" else None

    @property
    def to_teacher(self) -> nn.Module | None:
        return self.head if self.target == "teacher" else None

    def losses(self, student: list[Features], teacher: list[Features], batch: Batch) -> dict[str, Tensor]:
        first, *views = (self.head(seen.embedding) for seen in student)
        target = teacher[0].embedding if self.target == "teacher" else torch.stack(views).mean(dim=0).detach()
        principal = principal_component_loss(*self.all_gather(*views), temperature=self.temperature, k=self.k)
        projection = projection_loss(first, target, normalized=self.normalized)
        return {
            "principal": self.principal_weight * principal,
            "projection": self.projection_weight * projection,
        }
