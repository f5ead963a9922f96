"""What every method stands on: the student's module, the distiller, and their checks."""

from kd_lightning.distillation.distiller import Distiller, EmbeddingDistiller
from kd_lightning.distillation.student import Prediction, StudentModule

__all__ = ["Distiller", "EmbeddingDistiller", "Prediction", "StudentModule"]
