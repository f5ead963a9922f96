"""ReusedClassifier: a student whose map is mapped to the width of a teacher, and the teacher's classifier (SimKD)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.models.composites.base import Child, Composite, register
from kd_lightning.models.extraction import extract
from kd_lightning.models.features import Features, Reads

READS = Reads(maps=1, final=True)
"""Features of the student from which the map is taken (`Features.final_map`)."""


def transfer_layers(channels: int, output: int, *, factor: int = 2, relu: bool = True) -> nn.Sequential:
    """Return the layers between student and classifier: 1x1, 3x3 and 1x1 convolutions, with BatchNorm and ReLU.

    Args:
        channels: Number of channels of the student's map.
        output: Number of channels of the teacher's map.
        factor: Number by which `output` is divided for the width of the first two convolutions.
        relu: Whether a ReLU follows the last BatchNorm.
    """
    middle = max(1, output // factor)
    layers: list[nn.Module] = []
    for width, wanted, kernel in ((channels, middle, 1), (middle, middle, 3), (middle, output, 1)):
        convolution = nn.Conv2d(width, wanted, kernel, padding=kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(wanted), nn.ReLU()]
    return nn.Sequential(*layers[: None if relu else -1])


class ReusedClassifier(Composite):
    """A student, layers that map its last map to the width of a teacher, and a classifier of the average of this map.

    The student's own classifier is kept, so that the state dict contains the whole student, but it is not used.

    Args:
        student: The student, or its arguments `name` and `model_kwargs`.
        width: Number of channels that the classifier reads.
        pooling: Factor by which the student's map is average-pooled in both directions before the layers; 0: the map is
            pooled to one position.
        factor: Number by which `width` is divided for the width of the first two convolutions.
        relu: Whether a ReLU follows the last of the layers.
        bias: Whether the classifier has a bias.
        num_classes: Number of outputs of both classifiers. Default: that of the student.
    """

    def __init__(
        self,
        *,
        student: Child,
        width: int,
        pooling: int = 1,
        factor: int = 2,
        relu: bool = True,
        bias: bool = True,
        num_classes: int | None = None,
    ) -> None:
        super().__init__(student=student, num_classes=num_classes)
        self._own = {"width": width, "pooling": pooling, "factor": factor, "relu": relu, "bias": bias}
        self.pooling = pooling
        self.transfer = transfer_layers(self.num_features, width, factor=factor, relu=relu)
        self.teacher_classifier = self._classifier()
        self.num_features = self.head_hidden_size = width
        if self.feature_info:
            last = self.feature_info[-1]
            last |= {"num_chs": width, "reduction": last["reduction"] * max(pooling, 1)}

    def _classifier(self) -> nn.Module:
        classes = self.num_classes
        return nn.Linear(self._own["width"], classes, bias=self._own["bias"]) if classes else nn.Identity()

    @property
    def arguments(self) -> dict[str, Any]:
        return {**super().arguments, **self._own}

    @property
    def classifier_names(self) -> tuple[str, ...]:
        return ("teacher_classifier", *super().classifier_names)

    def get_classifier(self) -> nn.Module:
        return self.teacher_classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self.teacher_classifier = self._classifier()

    def mapped(self, student: Features) -> Tensor:
        """Return the map N,`width`,h,w that pooling reads, from features of the student (`READS`)."""
        maps = student.final_map
        if not self.pooling:
            maps = maps.mean(dim=(2, 3), keepdim=True)
        elif self.pooling > 1:
            maps = F.avg_pool2d(maps, self.pooling, ceil_mode=True)
        return self.transfer(maps)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.mapped(extract(self.student.name, self.student.model, x, READS))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean(dim=(2, 3))
        return pooled if pre_logits else self.teacher_classifier(pooled)

    def forward_intermediates(
        self, x: Tensor, indices: int | list[int] | None = None, intermediates_only: bool = False, **kwargs: Any
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the student's maps, as timm does. The last of them is the map that pooling reads."""
        settings = {"norm": kwargs.get("norm", False), "output_fmt": kwargs.get("output_fmt", "NCHW")}
        final, maps = self.student.model.forward_intermediates(x, indices=indices, **settings)
        maps[-1] = self.mapped(Features(maps=maps, final=final))
        return maps if intermediates_only else (maps[-1], maps)


register(ReusedClassifier, "reused_classifier")
