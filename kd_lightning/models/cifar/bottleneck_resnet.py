"""The ResNet-50 that RepDistiller uses as a teacher for CIFAR: `cifar_resnet50` (He et al. 2016)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.models.cifar.base import CifarModel, register, require_choice

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Bottleneck(nn.Module):
    """Block of a 1x1, a 3x3 and a 1x1 convolution, and a shortcut (He et al. 2016, Fig. 5).

    The 3x3 convolution has the stride. The last convolution has four times the width.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != wide:
            self.shortcut = nn.Sequential(nn.Conv2d(in_channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    def preactivation(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out)) + self.shortcut(x)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.preactivation(x))


class CifarBottleneckResNet(CifarModel):
    """ImageNet's bottleneck ResNet with a 3x3 stem of stride 1 and without max pooling.

    The network has four stages. The last stage has one eighth of the resolution of the images. The maps are the outputs
    of the stem and of the stages, each after its ReLU.

    Args:
        depth: Number of layers: 50, 101 or 152.
        **kwargs: Arguments of every CifarModel: num_classes, in_chans, drop_rate and global_pool.

    Raises:
        ValueError: if depth has another value.
    """

    classifier_name = "linear"

    def __init__(self, depth: int = 50, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_choice("depth", depth, _BLOCKS)
        before, maps = 64, [("bn1", 64, 1)]
        self.conv1 = nn.Conv2d(self.in_chans, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        for stage, count in enumerate(_BLOCKS[depth], start=1):
            inner = 32 * 2**stage
            blocks = [Bottleneck(before, inner, 1 if stage == 1 else 2)]
            blocks += [Bottleneck(4 * inner, inner, 1) for _ in range(count - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            before = 4 * inner
            maps.append((f"layer{stage}", before, 2 ** (stage - 1)))
        self.complete(maps)


register(CifarBottleneckResNet, {"cifar_resnet50": {"depth": 50}})
