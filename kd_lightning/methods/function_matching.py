"""FunctionMatching: soft targets of mixed images, without labels, for a long time (Beyer et al. 2022)."""

from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.models import Features, Reads


class FunctionMatching(Distiller):
    """Function matching (Beyer et al. 2022, "Knowledge Distillation: A Good Teacher Is Patient and Consistent").

    The student learns the teacher's probabilities for the very image that the teacher sees: with the same crop, the
    same flip and the same mixing. It learns for many more epochs than usual, without labels. Mixed images show both
    networks points between the images, so that the student matches the teacher's function.

    The loss is KD's. A run is function matching through its data and its length: set `data.mixing` (`mixup: 1.0`), and
    many epochs. Without `data.mixing`, a warning appears. *Of released code* (big_vision): no labels, mixup of all
    images, a temperature of 1, and 1,200 epochs for ImageNet. For small data sets it tries temperatures of 1, 2, 5 and
    10, and from 100 up to 1,000,000 epochs.

    Args:
        temperature: Temperature of both softmaxes.
        ce_weight: Weight of the cross-entropy with the labels. The paper has no such term.
        kd_weight: Weight of the soft targets.
        **kwargs: Arguments of every distiller, such as teacher, check_teacher, student, optimizer and lr_scheduler.
    """

    def __init__(
        self, *, temperature: float = 1.0, ce_weight: float = 0.0, kd_weight: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(ce_weight=ce_weight, kd_weight=kd_weight, kd_temperature=temperature, **kwargs)

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        if not data.mixing:
            rank_zero_warn("data.mixing: FunctionMatching needs mixed images, and there are none; set mixup to 1.0")

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        return {}
