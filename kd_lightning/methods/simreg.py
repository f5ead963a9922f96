"""SimReg: regression of the teacher's embedding, without labels (Navaneet et al. 2021)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import EmbeddingDistiller
from kd_lightning.distillation.adapters import mlp
from kd_lightning.errors import ConfigError
from kd_lightning.functional import regression_loss
from kd_lightning.models import Features


class SimReg(EmbeddingDistiller):
    """Regression (Navaneet et al. 2021, "SimReg: Regression as a Simple Yet Effective Tool for Self-supervised
    Knowledge Distillation").

    A deep head maps the student's embedding, and its output learns to point in the direction of the teacher's
    embedding. The head is dropped after training. The paper found that the head should be deep. The simplest form of
    this loss has no deep head. It is CoSS with `space_weight: 0`.

    The layers of the head are those of the authors' released code. With three hidden layers, BatchNorm and ReLU follow
    the first and the third, but not the second. With another number of hidden layers, BatchNorm and ReLU follow each
    hidden layer here. In the released code, they then follow none, so that the head is a linear map.

    Args:
        hidden: Widths of the hidden layers of the head. Default: the widths of the released code, which are 2, 1 and 2
            times the width of the student's embedding.
        simreg_weight: Weight of the regression.
        ce_weight: Weight of the cross-entropy with the labels. The paper has no such term.
        **kwargs: Arguments of every distiller, such as teacher, kd_weight, student, optimizer and lr_scheduler.
    """

    min_batch_size = 2
    normalises_vectors = True

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
        if any(hidden_width < 1 for hidden_width in widths):
            raise ConfigError(f"hidden: {widths} contains a width below 1; give widths of 1 or more")
        bare = (2,) if len(widths) == 3 else ()
        self.head = mlp(width, widths, self.teacher.embedding_width, norm=True, bare=bare)
        self.set_weights(simreg_weight=simreg_weight)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        return {"simreg": self.simreg_weight * regression_loss(*self.aligned_pair(student, teacher))}
