"""LogitDistiller: base class of methods that compare the logits of both networks at a temperature."""

from abc import ABC
from typing import Any

from torch import Tensor

from kd_lightning.distillation.distiller import Distiller
from kd_lightning.functional import standardize_logits
from kd_lightning.models import Reads


class LogitDistiller(Distiller, ABC):
    """Base class of methods whose terms divide the logits of both networks by a temperature.

    Args:
        standardize_logits: Whether the method's terms compare standardised logits (Sun et al. 2024, "Logit
            Standardization in Knowledge Distillation"): for each image, the logits of each network get the mean 0 and
            the standard deviation 1. The student then learns the order and the ratios of the teacher's logits, but
            not their range. The cross-entropy with the labels uses the logits as they are.
        **kwargs: Arguments of every distiller.
    """

    def __init__(self, *, standardize_logits: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.standardize_logits = standardize_logits

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    def prepare_logits(self, student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits N,K of both networks as the method's terms compare them: standardised, or as given."""
        if not self.standardize_logits:
            return student_logits, teacher_logits
        return standardize_logits(student_logits), standardize_logits(teacher_logits)
