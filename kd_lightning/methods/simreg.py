"""SimReg: regression of the teacher's embedding, without labels (Navaneet et al. 2021)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.ops import MLP

from kd_lightning.batch import Batch
from kd_lightning.distillation import EmbeddingDistiller
from kd_lightning.errors import ConfigError
from kd_lightning.functional import cosine, full_precision
from kd_lightning.models import Features


@full_precision
def regression_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """2 - 2 mean cosine of the rows of N,D and N,D: the squared distance of the two unit vectors."""
    return 2 - 2 * cosine(student, teacher).mean()


class SimReg(EmbeddingDistiller):
    """Regression (Navaneet et al. 2021, "SimReg: Regression as a Simple Yet Effective Tool for Self-supervised
    Knowledge Distillation").

    The student's embedding, through a deep head that is dropped afterwards, is to point where the teacher's does. That
    the head is deep is the paper's finding; its widths, BatchNorm and ReLU are its released code's. The plainest form,
    cosines and no head, is CoSS with `space_weight: 0`.

    Args:
        hidden: widths of the head's middle layers; default: the paper's, twice the student's embedding, once, twice.
        simreg_weight: weight of the regression.
        ce_weight: weight of the cross-entropy with the labels; the paper has none.
        **kwargs: teacher, kd_weight, student, optimizer and lr_scheduler, as for every distiller.
    """

    min_batch_size = 2

    def __init__(
        self,
        *,
        hidden: Sequence[int] | None = None,
        simreg_weight: float = 1.0,
        ce_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(ce_weight=ce_weight, **kwargs)
        width = self.student.embedding_width
        widths = [2 * width, width, 2 * width] if hidden is None else list(hidden)
        if any(middle < 1 for middle in widths):
            raise ConfigError(f"hidden: {widths} is to hold positive widths alone")
        self.head = MLP(width, [*widths, self.teacher.embedding_width], norm_layer=nn.BatchNorm1d)
        self.set_weights(simreg_weight=simreg_weight)

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        self.check_batch_size(data.batch_size)  # of each device: for BatchNorm's sake

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        return {"simreg": self.simreg_weight * regression_loss(*self.aligned_pair(student, teacher))}
