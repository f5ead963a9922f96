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
    final: bool = False

    def __or__(self, other: "Reads") -> "Reads":
        """Return the features that `self` or the other object requests."""
        return Reads(*map(max, self, other))

    def __str__(self) -> str:
        return ", ".join(name for name, wanted in self._asdict().items() if wanted) or "nothing"


class Features(NamedTuple):
    """Outputs of a network for N images. Features that were not requested are None or an empty list."""

    maps: list[Tensor] = []
    """Maps N,C,H,W of the last n stages. For a ViT: the patch tokens of the last n blocks, after the final norm. For
    `cifar_wrn_*`: the outputs of the stages, before BatchNorm and ReLU."""
    preactivations: list[Tensor] = []
    """Maps N,C,H,W of the last n stages before their last activation. Only for cifar_* and timm's ResNets."""
    tokens: Tensor | None = None
    """Tokens N,M,D, with the prefix tokens (CLS, registers) first. None if the model has no tokens."""
    attention: Tensor | None = None
    """Attention probabilities N,heads,M,M of the last block, before dropout. Only for ViTs."""
    embedding: Tensor | None = None
    """Input N,D of the classifier."""
    logits: Tensor | None = None
    """Output N,K of the classifier."""
    final: Tensor | None = None
    """Input of pooling: the final map N,C,H,W (N,H,W,C for Swin), or the tokens N,M,D of a ViT. It follows the head
    convolution (EfficientNet) and the final BatchNorm (`cifar_wrn_*`), unlike the last of the maps."""

    @property
    def final_map(self) -> Tensor:
        """Input N,C,H,W of pooling if it is such a map, otherwise the last of the maps. It needs `maps` and `final`."""
        final, last = self.final, self.maps[-1]
        return final if final.ndim == 4 and final.shape[2:] == last.shape[2:] else last

    def only(self, reads: Reads) -> "Features":
        """Return only the features that `reads` requests."""
        return Features(
            self.maps[len(self.maps) - reads.maps :],
            self.preactivations[len(self.preactivations) - reads.preactivations :],
            *(getattr(self, name) if getattr(reads, name) else None for name in self._fields[2:]),
        )
