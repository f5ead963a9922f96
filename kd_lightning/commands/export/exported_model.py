"""ExportedModel: the student as a function from images to logits or embedding."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kd_lightning.models import Network

InferenceFn = Callable[[Tensor], tuple[Tensor, ...]]
"""Function from images n,3,S,S to the outputs, in order."""
DTYPES = {"uint8": torch.uint8, "float32": torch.float32}


class ExportedModel(nn.Module):
    """A network with normalisation and resize that returns the requested outputs.

    Args:
        network: network in eval mode.
        outputs: names of the outputs: `logits` N,K, `embedding` N,D, or both.
        side: side of the input images in pixels.
        dtype: dtype of the input images: uint8, or float32 in [0, 1].
        class_names: names of the classes in the classifier's order; [] without a classifier or names.
    """

    def __init__(
        self, network: Network, outputs: tuple[str, ...], side: int, dtype: str, class_names: list[str]
    ) -> None:
        super().__init__()
        self.network, self.outputs, self.side, self.dtype = network, outputs, side, dtype
        self.class_names = class_names

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        requested = dict.fromkeys(self.outputs, True)
        features = self.network.features(images, **requested)._asdict()
        outputs = tuple(features[name] for name in self.outputs)
        return outputs if len(outputs) > 1 else outputs[0]

    @torch.no_grad()
    def run(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, always as a tuple."""
        return as_tuple(self(images))

    def to_input(self, images: Tensor) -> Tensor:
        """Convert uint8 images to the graph's input."""
        return images.float() / 255 if self.dtype == "float32" else images

    @property
    def resizes(self) -> bool:
        return self.network.size not in (None, self.side)

    def example(self) -> Tensor:
        """Return a batch of two images, for exporters: a size of one would be treated as a constant."""
        return self.to_input(torch.zeros(2, 3, self.side, self.side, dtype=torch.uint8))


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
