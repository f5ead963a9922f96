"""Heads on stages: small classifiers of the maps of a network's stages. A trained head can be an early exit.

A stage has a number, which is counted back from the last stage. The last stage has the number 1. It needs no head,
because the network's own classifier follows it.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.distillation.adapters import Init, connector, initialized
from kd_lightning.errors import ConfigError
from kd_lightning.models import Network


class StageHead(nn.Module):
    """Classifier of the maps of a stage.

    The attribute `embed` maps the maps N,C,H,W of CNNs and ViTs to embeddings N,`width`. The attribute `classifier`
    maps these embeddings to logits N,K. The head itself maps the maps to the logits.

    Args:
        embed: Layers that map the maps to embeddings.
        width: Width of the embeddings.
        classes: Number of classes K.
        init: Initial weights (`adapters.initialized`).

    Raises:
        ConfigError: if there are no classes.
    """

    def __init__(self, embed: nn.Module, width: int, classes: int, *, init: Init = "default") -> None:
        super().__init__()
        if classes < 1:
            raise ConfigError(
                "data.labeled: heads on stages learn from labels, but the data have no classes; give labelled data, or "
                "choose a method without labels"
            )
        self.embed, self.classifier = embed, nn.Linear(width, classes)
        initialized(self, init)

    def forward(self, maps: Tensor) -> Tensor:
        return self.classifier(self.embed(maps))


def convolutional_head(channels: int, classes: int, *, width: int = 256, init: Init = "default") -> StageHead:
    """Return a head as in MHKD: two 3x3 convolutions with BatchNorm and ReLU, average pooling, and a hidden layer.

    The convolutions are padded, so that a map may have any size.

    Args:
        channels: Number of channels of the stage's maps.
        classes: Number of classes.
        width: Number of channels of both convolutions, and width of the hidden layer.
        init: Initial weights.
    """
    convolutions = [connector(channels, width, kernel=3), connector(width, width, kernel=3)]
    embed = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, width), nn.ReLU())
    return StageHead(embed, width, classes, init=init)


class Bottleneck(nn.Sequential):
    """Layers that map the maps of a stage to embeddings, as in BYOT (Zhang et al. 2019).

    They are a 1x1 convolution, a convolution with a kernel and a stride of `reduction`, and a 1x1 convolution, each
    with BatchNorm and ReLU, and average pooling. Maps whose size is not divisible by the stride are padded with zeros.

    Args:
        channels: Number of channels of the stage's maps.
        width: Width of the embeddings. The first two convolutions have a quarter of it, as in the released code.
        reduction: Size of the stage's maps divided by the size of the last map.
    """

    def __init__(self, channels: int, width: int, reduction: int) -> None:
        middle = max(1, width // 4)
        strided = connector(middle, middle, kernel=reduction, stride=reduction)
        super().__init__(connector(channels, middle), strided, connector(middle, width))
        self.reduction = reduction

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        padded = F.pad(maps, (0, -width % self.reduction, 0, -height % self.reduction))
        return super().forward(padded).mean(dim=(2, 3))


def bottleneck_head(
    channels: int, classes: int, *, width: int, reduction: int = 1, init: Init = "default"
) -> StageHead:
    """Return a head as in BYOT: a `Bottleneck` and a linear classifier."""
    return StageHead(Bottleneck(channels, width, reduction), width, classes, init=init)


def stages_with_heads(stages: Sequence[int] | None, *networks: Network) -> list[int]:
    """Return the numbers of the stages that get a head, from the first stage to the last.

    Args:
        stages: Numbers of stages. None: all stages except the first, which is the stem in most networks, and the last.
            If all networks have more than five stages (the blocks of a ViT), None means three stages, after a quarter,
            a half and three quarters of the stages.
        *networks: Networks that get heads on the stages with these numbers.

    Raises:
        ConfigError: if there are no stages, if a number occurs twice, if the last stage is given, or if a network has
            no such stage.
    """
    shallowest = min(networks, key=lambda network: len(network.model.feature_info))
    count = len(shallowest.model.feature_info)
    if stages is None:
        quarters = [1 + round(count * quarter / 4) for quarter in (3, 2, 1)]
        stages = quarters if count > 5 else [*range(max(count - 1, 2), 1, -1)]
    if not stages or len({*stages}) < len(stages):
        raise ConfigError(f"stages: {[*stages]} is given; give the numbers of one or more stages, each only once")
    for number in stages:
        if not 2 <= number <= count:
            remedy = f"choose 2 to {count}" if count > 1 else "choose another network"
            raise ConfigError(
                f"stages: {number} is given, but {shallowest.name} has {count} stages, and its last stage, with the "
                f"number 1, needs no head; {remedy}"
            )
    return sorted(stages, reverse=True)


def heads_on(network: Network, stages: Sequence[int], make: Callable[[int, int], StageHead]) -> nn.ModuleDict:
    """Return the heads of a network by the numbers of their stages.

    Args:
        network: Network whose maps the heads classify.
        stages: Numbers of the stages (`stages_with_heads`).
        make: Function that returns a head for the number of channels of the stage's maps, and for their size divided by
            the size of the last map.
    """
    info = network.model.feature_info
    last = info[-1]["reduction"]
    found = {number: (info[-number]["num_chs"], info[-number]["reduction"]) for number in stages}
    return nn.ModuleDict({str(n): make(channels, max(1, last // by)) for n, (channels, by) in found.items()})
