"""ExportedModel: the student as a function that computes logits or embeddings of images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kd_lightning.models import Network

InferenceFn = Callable[[Tensor], tuple[Tensor, ...]]
"""Function that takes images n,3,S,S and returns the outputs of a file, in their order."""
DTYPES = {"uint8": torch.uint8, "float32": torch.float32}


class ExportedModel(nn.Module):
    """A network that resizes and normalises images, and returns the requested outputs.

    Args:
        network: network in eval mode.
        outputs: names of the outputs: `logits` N,K, `embedding` N,D, or both.
        side: side of the input images in pixels.
        dtype: dtype of the input images: uint8, or float32 in [0, 1].
        class_names: names of the classes, in the order of the logits; [] if there is no classifier or no names.
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
        """Return the outputs as a tuple, even if there is only one output."""
        return as_tuple(self(images))

    def to_input(self, images: Tensor) -> Tensor:
        """Convert uint8 images to the dtype of the input."""
        return images.float() / 255 if self.dtype == "float32" else images

    @property
    def resizes(self) -> bool:
        return self.network.size not in (None, self.side)

    def example(self) -> Tensor:
        """Return a batch of two images for exporters, which would treat a batch size of 1 as a constant."""
        return self.to_input(torch.zeros(2, 3, self.side, self.side, dtype=torch.uint8))


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
