"""CoSS: distillation by space similarity, without labels (Singh & Wang 2024)."""

from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import EmbeddingDistiller
from kd_lightning.errors import check_positive
from kd_lightning.functional import cosine, full_precision
from kd_lightning.models import Features

PAPER_SCALE, RELEASED_SCALE = 70.0, 1 / (0.07 * 0.1)


@full_precision
def feature_similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return L_co, the negative mean over N samples of the cosine between the student's and the teacher's embedding.

    Args:
        student: Embeddings of the student, N,D.
        teacher: Embeddings of the teacher, N,D.
    """
    return -cosine(student, teacher, dim=1).mean()


@full_precision
def space_similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return L_ss, the negative mean over D dimensions of the cosine between the student's and the teacher's column.

    A column contains the values of one dimension for all samples of the batch. The columns are not centred, and the
    rows are not normalised. With one sample, each column is a single number, and the gradient is 0.

    Args:
        student: Embeddings of the student, N,D.
        teacher: Embeddings of the teacher, N,D.
    """
    return -cosine(student, teacher, dim=0).mean()


@full_precision
def coss_loss(student: Tensor, teacher: Tensor, *, scale: float = PAPER_SCALE, space_weight: float = 1.0) -> Tensor:
    """Return scale x (L_co + space_weight x L_ss) (CoSS, section 3).

    Args:
        student: Embeddings of the student, N,D.
        teacher: Embeddings of the teacher, N,D.
        scale: Factor of both terms.
        space_weight: Weight of L_ss, the paper's lambda.
    """
    return scale * (feature_similarity_loss(student, teacher) + space_weight * space_similarity_loss(student, teacher))


class CoSS(EmbeddingDistiller):
    """Space similarity (Singh & Wang 2024, "Simple Unsupervised Knowledge Distillation With Space Similarity").

    The student learns to give each image an embedding with the direction of the teacher's embedding. In addition, each
    dimension of the student's embedding learns to vary over the batch as the same dimension of the teacher's embedding
    does. The student thus preserves the shape of the teacher's embedding space. The method needs no labels.

    In the paper, a batch consists of anchors, each with 15 of its 31 nearest neighbours in the teacher's embedding
    space. `data.neighbors` makes such batches. The head is that of the authors' released code. The released code
    compares only the images of each GPU's batch, as `gather: false` does here.

    Args:
        scale: Factor of both terms. 70 is the paper's value. `released` is 1 / (0.07 x 0.1), the value of the authors'
            released code. With SGD, the factor acts like a factor of the learning rate. With AdamW, it has nearly no
            effect. With Adam, it mainly changes how strong the weight decay is relative to the loss.
        space_weight: Weight of the space-similarity term relative to the feature-similarity term (the paper's lambda).
            With 0, only the feature-similarity term is computed (the paper's L_co).
        hidden: Width of the hidden layer of the head. The head (Linear, ReLU, Linear) is used only if the student's and
            the teacher's embeddings differ in width. It is not part of the saved student.
        ce_weight: Weight of the cross-entropy with the labels. The paper has no such term.
        **kwargs: Arguments of every distiller, such as teacher, kd_weight, student, optimizer and lr_scheduler.
    """

    def __init__(
        self,
        *,
        scale: float | Literal["released"] = PAPER_SCALE,
        space_weight: float = 1.0,
        hidden: int = 2048,
        ce_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(ce_weight=ce_weight, **kwargs)
        self.scale = RELEASED_SCALE if scale == "released" else float(scale)
        check_positive(hidden=hidden, scale=self.scale)
        self.set_weights(space_weight=space_weight, scale=self.scale)
        width, teacher_width = self.student.embedding_width, self.teacher.embedding_width
        self.head: nn.Module = nn.Identity()
        if width != teacher_width:
            self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, teacher_width))

    @property
    def min_batch_size(self) -> int:
        return 2 if self.space_weight else 1

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        images = self.effective_batch_size(data)
        if self.space_weight and images < 32:
            rank_zero_warn(
                f"data.batch_size: the space-similarity term of CoSS over {images} images is noisy; use a larger batch "
                "(the paper has 1,024 images)"
            )

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        pair = self.aligned_pair(student, teacher)
        losses = {"feature": self.scale * feature_similarity_loss(*pair)}
        if self.space_weight:
            losses["space"] = self.scale * self.space_weight * space_similarity_loss(*self.all_gather(*pair))
        return losses
