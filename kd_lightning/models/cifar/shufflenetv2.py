"""ShuffleNetV2 for 32-pixel images: `cifar_shufflenetv2*` (Ma et al. 2018)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.models.cifar.base import CifarModel, register, require_choice
from kd_lightning.models.cifar.shufflenetv1 import shuffle_channels

_STEM = 24
_WIDTHS = {  # of three stages and the head convolution (Ma et al. 2018, Table 5; RepDistiller has 224 instead of 244)
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


class SplitUnit(nn.Module):
    """Block of a 1x1, a 3x3 depthwise and a 1x1 convolution of half of the channels (Ma et al. 2018, Fig. 3c).

    The other half of the channels is not changed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def branch(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return self.bn3(self.conv3(out))

    def preactivation(self, x: Tensor) -> Tensor:
        kept, out = x.chunk(2, 1)
        return torch.cat([kept, self.branch(out)], 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, out = x.chunk(2, 1)
        return shuffle_channels(torch.cat([kept, F.relu(self.branch(out))], 1), 2)


class DownUnit(nn.Module):
    """Block of two branches that read all channels and halve the resolution (Ma et al. 2018, Fig. 3d).

    The first branch consists of conv1 and conv2. The second branch consists of conv3, conv4 and conv5.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, 2, 1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        right = F.relu(self.bn5(self.conv5(right)))
        return shuffle_channels(torch.cat([left, right], 1), 2)


class CifarShuffleNetV2(CifarModel):
    """ShuffleNetV2 as in RepDistiller for CIFAR: a 1x1 stem at full resolution, then three stages that each halve it.

    The maps are the outputs of the stem and of the stages, each after its ReLU. The last map is the input of the head
    convolution, which has the 1024 channels of the embedding (2048 for size 2).

    The pre-activation of a stage is defined as in RepDistiller. Its first half contains the channels that the last unit
    does not change. Its second half contains the other channels before their ReLU. The map is the ReLU of the
    pre-activation, with shuffled channels.

    Args:
        size: Size of the network: 0.5, 1, 1.5 or 2. It determines the widths of the stages.
        **kwargs: Arguments of every CifarModel: num_classes, in_chans, drop_rate and global_pool.

    Raises:
        ValueError: if size has another value.
    """

    classifier_name = "linear"

    def __init__(self, size: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_choice("size", size, _WIDTHS)
        *channels, wide = _WIDTHS[size]
        before, maps = _STEM, [("bn1", _STEM, 1)]
        self.conv1 = nn.Conv2d(self.in_chans, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        for stage, (width, count) in enumerate(zip(channels, (4, 8, 4), strict=True), start=1):
            units = [DownUnit(before, width), *(SplitUnit(width) for _ in range(count - 1))]
            self.add_module(f"layer{stage}", nn.Sequential(*units))
            maps.append((f"layer{stage}", width, 2**stage))
            before = width
        self.conv2 = nn.Conv2d(before, wide, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.complete(maps, wide)

    def initialize(self, layer: nn.Module) -> None:
        """Keep torch's default, as RepDistiller does."""

    def activate(self, number: int, x: Tensor) -> Tensor:
        return shuffle_channels(F.relu(x), 2) if number else F.relu(x)

    def widen(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(x)))


_NAMES = {0.5: "_x0_5", 1.0: "", 1.5: "_x1_5", 2.0: "_x2_0"}
register(CifarShuffleNetV2, {f"cifar_shufflenetv2{name}": {"size": size} for size, name in _NAMES.items()})
