"""ResidualSum: the sum of a student's and an assistant's final features, with the student's head (ResidualKD)."""

from typing import Any

from torch import Tensor, nn

from kd_lightning.errors import ConfigError
from kd_lightning.models.composites.base import Child, Composite, child, described, register


class ResidualSum(Composite):
    """A student and an assistant, whose final features (the input of pooling) are added. The head is the student's.

    If the assistant has another width, a linear map without bias (a 1x1 convolution) maps its features to the width
    of the student. The assistant has no classifier.

    Args:
        student: The student, or its arguments `name` and `model_kwargs`.
        assistant: The assistant, or its arguments. Its classifier is removed.
        num_classes: Number of outputs of the classifier. Default: that of the student.
    """

    def __init__(self, *, student: Child, assistant: Child, num_classes: int | None = None) -> None:
        super().__init__(student=student, num_classes=num_classes)
        self.assistant = child("assistant", assistant, 0)
        width, wanted = self.assistant.model.num_features, self.num_features
        self.connector = nn.Identity() if width == wanted else nn.Linear(width, wanted, bias=False)
        if self.feature_info:
            self.feature_info[-1]["num_chs"] = self.num_features  # the last map is the sum

    @property
    def arguments(self) -> dict[str, Any]:
        return {**super().arguments, "assistant": described(self.assistant)}

    def connect(self, assistant: Tensor, axis: int) -> Tensor:
        """Return features of the assistant, with the channels at `axis`, in the width of the student."""
        if isinstance(self.connector, nn.Identity):
            return assistant
        return self.connector(assistant.movedim(axis, -1)).movedim(-1, axis)

    def add(self, student: Tensor, assistant: Tensor) -> Tensor:
        """Return the sum of the final features of the two networks.

        Raises:
            ConfigError: if the two networks have different numbers of positions.
        """
        model = self.assistant.model
        axis = 1 if assistant.ndim == 4 and getattr(model, "output_fmt", "NCHW") != "NHWC" else -1
        mapped = self.connect(assistant, axis)
        if mapped.shape != student.shape:
            raise ConfigError(
                f"assistant.name: the final features of {self.assistant.name} have the shape "
                f"{tuple(assistant.shape[1:])}, but those of the student {self.student.name} have "
                f"{tuple(student.shape[1:])}; choose an assistant with as many positions as the student"
            )
        return student + mapped

    def forward_features(self, x: Tensor) -> Tensor:
        return self.add(self.student.model.forward_features(x), self.assistant.model.forward_features(x))

    def forward_intermediates(
        self, x: Tensor, indices: int | list[int] | None = None, intermediates_only: bool = False, **kwargs: Any
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the student's maps, as timm does. The last of them is the sum of the two networks' last maps.

        The sum is what pooling reads if this is a map N,C,H,W.
        """
        settings = {"norm": kwargs.get("norm", False), "output_fmt": kwargs.get("output_fmt", "NCHW")}
        final, maps = self.student.model.forward_intermediates(x, indices=indices, **settings)
        added, (last,) = self.assistant.model.forward_intermediates(x, indices=1, **settings)
        final = self.add(final, added)
        is_map = final.ndim == 4 and final.shape[-2:] == maps[-1].shape[-2:]
        maps[-1] = final if is_map else maps[-1] + self.connect(last, 1)
        return maps if intermediates_only else (final, maps)


register(ResidualSum, "residual_sum")
