"""Base classes of all methods, their checks, and `Combined`."""

from kd_lightning.distillation.combined import Combined
from kd_lightning.distillation.distiller import Distiller
from kd_lightning.distillation.embedding_distiller import EmbeddingDistiller
from kd_lightning.distillation.evaluation_steps import Prediction
from kd_lightning.distillation.logit_distiller import LogitDistiller
from kd_lightning.distillation.passes import FurtherNetwork, Inputs, Seen
from kd_lightning.distillation.queue_distiller import QueueDistiller
from kd_lightning.distillation.student import StudentModule

__all__ = [
    "Combined",
    "Distiller",
    "EmbeddingDistiller",
    "FurtherNetwork",
    "Inputs",
    "LogitDistiller",
    "Prediction",
    "QueueDistiller",
    "Seen",
    "StudentModule",
]
