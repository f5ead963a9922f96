"""EmbeddingDistiller: a student whose embedding is mapped by a head into the teacher's embedding space."""

from abc import ABC

from torch import Tensor, nn

from kd_lightning.distillation.distiller import Distiller
from kd_lightning.models import Features, Reads


class EmbeddingDistiller(Distiller, ABC):
    """Base of the label-free methods that pull the student's embedding, through a head, to the teacher's.

    Subclasses make the head; it is not part of the student that is kept.
    """

    head: nn.Module

    @property
    def reads(self) -> Reads:
        return Reads(embedding=True)

    def aligned_pair(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        return self.head(student.embedding), teacher.embedding
