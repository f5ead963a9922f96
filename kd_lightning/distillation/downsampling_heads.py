"""Heads on stages as in OFA-KD: they reduce the maps of a stage to the size of the last maps, for CNNs and for ViTs."""

import math

import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from kd_lightning.distillation.adapters import Init, connector
from kd_lightning.distillation.heads import StageHead


class PatchMerging(nn.Module):
    """Layers that merge 2 x 2 positions of maps, as in Swin: LayerNorm, a linear layer without bias, and a GELU.

    Maps with an odd height or width are padded with zeros.

    Args:
        channels: Number of channels of the maps.
        output: Number of channels of the merged maps.
    """

    def __init__(self, channels: int, output: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * channels), nn.Linear(4 * channels, output, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        merged = F.pixel_unshuffle(F.pad(maps, (0, width % 2, 0, height % 2)), 2)
        return F.gelu(self.reduction(self.norm(merged.movedim(1, -1)))).movedim(-1, 1)


class TokenBlocks(nn.Sequential):
    """Blocks of a ViT for the positions of maps N,C,H,W, and the mean of the positions N,C.

    Args:
        channels: Number of channels.
        depth: Number of blocks.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__(*(Block(channels, num_heads=math.gcd(channels, 4)) for _ in range(depth)))

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps.flatten(2).mT).mean(dim=1)


def separable_head(channels: int, classes: int, *, width: int, reduction: int = 1, init: Init = "default") -> StageHead:
    """Return a head as in OFA-KD for CNNs: separable convolutions that halve the size of the maps, and average pooling.

    Each halving has two pairs of a depthwise 3x3 and a 1x1 convolution, and doubles the channels. If there is none,
    there is one 1x1 convolution.

    Args:
        channels: Number of channels of the stage's maps.
        classes: Number of classes.
        width: Number of channels of the last map.
        reduction: Size of the stage's maps divided by the size of the last map. It is rounded to a power of two.
        init: Initial weights.
    """
    halvings, layers = round(math.log2(reduction)), []
    for number in range(halvings):
        output = width if number == halvings - 1 else 2 * channels
        for target, stride in ((channels, 2), (output, 1)):
            depthwise = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
            layers += [depthwise, connector(channels, target)]
        channels = output
    layers = layers or [nn.Conv2d(channels, width, 1)]
    return StageHead(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width, classes, init=init)


def token_head(
    channels: int, classes: int, *, width: int, grid: int, depth: int = 1, init: Init = "default"
) -> StageHead:
    """Return a head as in OFA-KD for ViTs: merging of patches until the grid has 7 to 13 rows, and blocks of a ViT.

    Args:
        channels: Number of channels of the stage's maps.
        classes: Number of classes.
        width: Width of the blocks. Without a merging, a linear map takes the channels to this width if they differ.
        grid: Number of rows and columns of the patches.
        depth: Number of blocks.
        init: Initial weights.
    """
    layers: list[nn.Module] = []
    for _ in range(max(0, int(math.log2(max(grid, 1) / 7)))):
        layers.append(PatchMerging(channels, width))
        channels = width
    layers += [] if channels == width else [nn.Conv2d(channels, width, 1)]
    return StageHead(nn.Sequential(*layers, TokenBlocks(width, depth)), width, classes, init=init)
