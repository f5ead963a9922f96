"""Deployed: a student as it is exported: images in, logits or embedding out."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kd_lightning.models import Network

Run = Callable[[Tensor], tuple[Tensor, ...]]
"""Images n,3,S,S to the outputs, in their order."""
DTYPES = {"uint8": torch.uint8, "float32": torch.float32}


class Deployed(nn.Module):
    """A network with its normalisation and resize, which gives what is wanted of it.

    Args:
        network: in eval mode.
        outputs: `logits` N,K, `embedding` N,D, or both.
        side: of the images that it takes, in pixels.
        dtype: of the images: uint8, or float32 in [0, 1].
        class_names: in the classifier's order; [] where there is none, or they have no names.
    """

    def __init__(
        self, network: Network, outputs: tuple[str, ...], side: int, dtype: str, class_names: list[str]
    ) -> None:
        super().__init__()
        self.network, self.outputs, self.side, self.dtype = network, outputs, side, dtype
        self.class_names = class_names

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        wanted = dict.fromkeys(self.outputs, True)
        seen = self.network.features(images, **wanted)._asdict()
        given = tuple(seen[name] for name in self.outputs)
        return given if len(given) > 1 else given[0]

    @torch.no_grad()
    def run(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs, a tuple in any case."""
        return as_tuple(self(images))

    def given(self, images: Tensor) -> Tensor:
        """Images uint8 as the exported graph takes them."""
        return images.float() / 255 if self.dtype == "float32" else images

    @property
    def resizes(self) -> bool:
        return self.network.size not in (None, self.side)

    def example(self) -> Tensor:
        """A batch of two images, for exporters: one would be taken for a constant."""
        return self.given(torch.zeros(2, 3, self.side, self.side, dtype=torch.uint8))


def as_tuple(given: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return given if isinstance(given, tuple) else (given,)
