"""EmbeddingDistiller: base class of methods that map the student's embedding into the teacher's embedding space."""

from abc import ABC

from torch import Tensor, nn

from kd_lightning.distillation.distiller import Distiller
from kd_lightning.models import Features, Reads


class EmbeddingDistiller(Distiller, ABC):
    """Base class of the label-free methods that make the head's output similar to the teacher's embedding.

    The head maps the student's embedding into the teacher's embedding space. Subclasses create the head. It is not part
    of the student that is saved at the end of a run.
    """

    head: nn.Module

    @property
    def reads(self) -> Reads:
        return Reads(embedding=True)

    def aligned_pair(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        return self.head(student.embedding), teacher.embedding
