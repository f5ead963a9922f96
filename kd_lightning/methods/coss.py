"""CoSS: space similarity, distillation without labels (Singh & Wang 2024)."""

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
    """L_co: minus the mean cosine of the rows of N,D and N,D, each sample's features in both networks."""
    return -cosine(student, teacher, dim=1).mean()


@full_precision
def space_similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """L_ss: minus the mean cosine of the columns of N,D and N,D, each dimension over the batch.

    The columns of the features as they are: not centred, and not of rows that were normalised before. With one
    sample every column is a single number, and nothing is left to learn.
    """
    return -cosine(student, teacher, dim=0).mean()


@full_precision
def coss_loss(student: Tensor, teacher: Tensor, *, scale: float = PAPER_SCALE, space_weight: float = 1.0) -> Tensor:
    """scale (L_co + space_weight L_ss) of N,D and N,D features (CoSS, section 3)."""
    return scale * (feature_similarity_loss(student, teacher) + space_weight * space_similarity_loss(student, teacher))


class CoSS(EmbeddingDistiller):
    """Space similarity (Singh & Wang 2024, "Simple Unsupervised Knowledge Distillation With Space Similarity").

    The student's embedding is to lie where the teacher's does, and each of its dimensions is to vary over the batch as
    the teacher's does, so that the shape of the teacher's whole space is kept. It needs no labels. The paper's batches
    are anchors with 15 of their 31 nearest neighbours by the teacher: `data.neighbors`. The head is that of its
    released code, which compares within each GPU's own batch (`gather: false`).

    Args:
        scale: of the whole loss, which is not without effect beside a weight decay: 70 is the paper's, `released` the
            1 / (0.07 x 0.1) of its released code.
        space_weight: of the dimensions' term beside the samples'; the paper's lambda. 0 leaves cosines alone, its L_co.
        hidden: width of the head's middle layer. There is a head, Linear, ReLU, Linear on the student's embedding, only
            where the two widths differ; it is not part of the student that is kept.
        ce_weight: weight of the cross-entropy with the labels; the paper has none.
        **kwargs: teacher, kd_weight, student, optimizer and lr_scheduler, as for every distiller.
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
            rank_zero_warn(f"data.batch_size: CoSS's dimensions over {images} images are noisy; the paper has 1,024")

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        pair = self.aligned_pair(student, teacher)
        losses = {"feature": self.scale * feature_similarity_loss(*pair)}
        if self.space_weight:
            losses["space"] = self.scale * self.space_weight * space_similarity_loss(*self.all_gather(*pair))
        return losses
