"""KD: soft targets (Hinton, Vinyals, Dean 2015). Their loss is `functional.kd_loss`, since every distiller has it."""

from typing import Any

from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.models import Features, Reads


class KD(Distiller):
    """Soft targets (Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network").

    The student learns the teacher's softened class probabilities. Every distiller has this term (`kd_weight`); here it
    is enabled by default, and it is the only one beside the labels'.

    Args:
        temperature: temperature of both softmaxes, another name of kd_temperature; the defaults of the weights belong
            to 4.
        ce_weight: weight of the cross-entropy with the labels; 0 learns from the teacher alone.
        kd_weight: weight of the soft targets; 0.1 and 0.9 are RepDistiller's (Tian et al. 2020), the paper gives none.
        **kwargs: teacher, check_teacher, student, optimizer and lr_scheduler, as for every distiller.
    """

    def __init__(
        self, *, temperature: float = 4.0, ce_weight: float = 0.1, kd_weight: float = 0.9, **kwargs: Any
    ) -> None:
        super().__init__(ce_weight=ce_weight, kd_weight=kd_weight, kd_temperature=temperature, **kwargs)

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        return {}
