"""KD: soft targets (Hinton, Vinyals, Dean 2015). The loss is `kd_loss`. Every distiller can add it with `kd_weight`."""

from typing import Any

from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import LogitDistiller
from kd_lightning.errors import check_temperature
from kd_lightning.functional import kd_loss
from kd_lightning.models import Features


class KD(LogitDistiller):
    """Soft targets (Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network").

    The student learns the teacher's class probabilities, which are softened by a temperature. Every distiller has this
    term (`kd_weight`). `KD` enables it by default. Its only other term is the cross-entropy with the labels.

    With `standardize_logits`, the method is LSKD (Sun et al. 2024). The released code of LSKD has a temperature of 2,
    a `kd_weight` of 9 and a `ce_weight` of 0.1.

    Args:
        temperature: Temperature of both softmaxes. AICSD, MHKD and STKD call it `temperature` as well, and all other
            methods `kd_temperature`. The default weights are meant for a temperature of 4.
        ce_weight: Weight of the cross-entropy with the labels. With 0, the student learns only from the teacher.
        kd_weight: Weight of the soft targets. The default weights of 0.1 and 0.9 are RepDistiller's (Tian et al. 2020).
            The paper gives no weights.
        **kwargs: `standardize_logits`, and the arguments of every distiller, such as teacher, check_teacher, student,
            optimizer and lr_scheduler.
    """

    def __init__(
        self, *, temperature: float = 4.0, ce_weight: float = 0.1, kd_weight: float = 0.9, **kwargs: Any
    ) -> None:
        check_temperature(temperature=temperature)
        super().__init__(ce_weight=ce_weight, kd_weight=kd_weight, kd_temperature=temperature, **kwargs)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        if not (self.standardize_logits and self.kd_weight):
            return {}  # the base class adds the soft targets
        logits = self.prepare_logits(student.logits, teacher.logits)
        return {"kd": self.kd_weight * kd_loss(*logits, temperature=self.kd_temperature)}
