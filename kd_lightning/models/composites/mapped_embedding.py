"""MappedEmbedding: a student whose embedding a linear map takes to another width (EmbedDistill)."""

from typing import Any

from torch import Tensor, nn

from kd_lightning.models.composites.base import Child, Composite, register


class StudentClassifier(nn.Sequential):
    """A classifier that reads the student's own embedding, which is not the embedding of the composite."""


class MappedEmbedding(Composite):
    """A student and a linear map of its embedding. The embedding of the composite is the mapped one.

    The logits are those of the student: its classifier reads its own embedding. Without a classifier (`num_classes`
    0), the output is the mapped embedding. The maps of the stages are those of the student.

    Args:
        student: The student, or its arguments `name` and `model_kwargs`.
        width: Width of the mapped embedding.
        num_classes: Number of outputs of the classifier. Default: that of the student.
    """

    def __init__(self, *, student: Child, width: int, num_classes: int | None = None) -> None:
        super().__init__(student=student, num_classes=num_classes)
        self.head = nn.Linear(self.student.embedding_width, width)
        self.head_hidden_size = width

    @property
    def arguments(self) -> dict[str, Any]:
        return {**super().arguments, "width": self.head_hidden_size}

    def get_classifier(self) -> nn.Module:
        found = super().get_classifier()
        return StudentClassifier(found) if self.num_classes and isinstance(found, nn.Module) else found

    def forward_features(self, x: Tensor) -> Tensor:
        return self.student.model.forward_features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.num_classes and not pre_logits:
            return super().forward_head(x)
        return self.head(super().forward_head(x, pre_logits=True))

    def forward_intermediates(self, x: Tensor, **kwargs: Any) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the maps of the student, as timm does."""
        return self.student.model.forward_intermediates(x, **kwargs)


register(MappedEmbedding, "mapped_embedding")
