"""Features: the outputs of a network for a batch of images. Reads: the features to compute."""

from typing import NamedTuple

from torch import Tensor


class Reads(NamedTuple):
    """The features to compute, as the arguments of `Network.features`."""

    maps: int = 0
    """Number of last stages whose maps are computed."""
    preactivations: int = 0
    """Number of last stages whose maps before the last activation are computed."""
    tokens: bool = False
    attention: bool = False
    embedding: bool = False
    logits: bool = False

    def __or__(self, other: "Reads") -> "Reads":
        """Return the features that at least one of the two requests."""
        return Reads(*map(max, self, other))

    def __str__(self) -> str:
        return ", ".join(name for name, wanted in self._asdict().items() if wanted) or "nothing"


class Features(NamedTuple):
    """Outputs of a network for N images; None, or an empty list, for features that were not requested."""

    maps: list[Tensor] = []
    """Maps of the last n stages, N,C,H,W each; for a ViT, patch tokens of the last blocks after its final norm; for
    `cifar_wrn_*`, the sums of the stages before BN and ReLU."""
    preactivations: list[Tensor] = []
    """Maps of the last n stages before the last activation, N,C,H,W each; only for cifar_* and timm's ResNets."""
    tokens: Tensor | None = None
    """N,M,D: prefix tokens (CLS, registers) first; None if the model has no tokens."""
    attention: Tensor | None = None
    """N,heads,M,M: the attention probabilities of the last block, before dropout; only for ViTs."""
    embedding: Tensor | None = None
    """N,D: the input of the classifier."""
    logits: Tensor | None = None
    """N,K: the output of the classifier."""

    def only(self, reads: Reads) -> "Features":
        """Return only the features that `reads` requests."""
        return Features(
            self.maps[len(self.maps) - reads.maps :],
            self.preactivations[len(self.preactivations) - reads.preactivations :],
            *(getattr(self, name) if getattr(reads, name) else None for name in self._fields[2:]),
        )
