"""EmbeddingDistiller: base class of methods that map the student's embedding into the teacher's embedding space."""

from abc import ABC

from torch import Tensor, nn

from kd_lightning.distillation.distiller import Distiller
from kd_lightning.models import Features, Reads


class EmbeddingDistiller(Distiller, ABC):
    """Base class of label-free methods with a head, an additional layer that belongs to the method.

    The head maps the student's embedding into the teacher's embedding space. The losses make the output of the head
    similar to the teacher's embedding. Subclasses create the head. The head is not saved with the student at the end of
    a run.
    """

    head: nn.Module

    @property
    def reads(self) -> Reads:
        return Reads(embedding=True)

    @property
    def to_teacher(self) -> nn.Module:
        return self.head

    def aligned_pair(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        return self.to_teacher(student.embedding), teacher.embedding
