"""Features, what a network computed of a batch of images, and Reads, which of them are asked for."""

from typing import NamedTuple

from torch import Tensor


class Reads(NamedTuple):
    """Which features are computed; the arguments of `Network.features`."""

    maps: int = 0
    """How many of the last stages' maps."""
    preactivations: int = 0
    """How many of the last stages' maps before their last activation."""
    tokens: bool = False
    attention: bool = False
    embedding: bool = False
    logits: bool = False

    def __or__(self, other: "Reads") -> "Reads":
        """Return what either of two asks for."""
        return Reads(*map(max, self, other))

    def __str__(self) -> str:
        return ", ".join(name for name, wanted in self._asdict().items() if wanted) or "nothing"


class Features(NamedTuple):
    """What a network computed of N images; None, or no maps, where it was not asked for."""

    maps: list[Tensor] = []
    """The last n stages, N,C,H,W each; a ViT's blocks too: patch tokens only, after its final norm."""
    preactivations: list[Tensor] = []
    """The last n stages before their last activation, N,C,H,W each; of cifar_* and timm's ResNets."""
    tokens: Tensor | None = None
    """N,M,D: prefix tokens (CLS, registers) first; None where the model has no tokens."""
    attention: Tensor | None = None
    """N,heads,M,M: the attention probabilities of the last block, before dropout; of ViTs."""
    embedding: Tensor | None = None
    """N,D: the classifier's input."""
    logits: Tensor | None = None
    """N,K."""

    def only(self, reads: Reads) -> "Features":
        """Return the features that `reads` asks for, where more were computed."""
        return Features(
            self.maps[len(self.maps) - reads.maps :],
            self.preactivations[len(self.preactivations) - reads.preactivations :],
            *(getattr(self, name) if getattr(reads, name) else None for name in self._fields[2:]),
        )
