"""ShuffleNet for 32-pixel images: `cifar_shufflenetv1` (Zhang et al. 2018)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.models.cifar.base import CifarModel, register, require_choice

_STEM = 24
_WIDTHS = {1: (144, 288, 576), 2: (200, 400, 800), 3: (240, 480, 960)}  # by groups (Zhang et al. 2018, Table 1)


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Return N,C,H,W with reordered channels: the first of each group, then the second of each group, and so on."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleUnit(nn.Module):
    """Block of a grouped 1x1, a 3x3 depthwise and a grouped 1x1 convolution (Zhang et al. 2018, Fig. 2b and c).

    The first convolution reduces the channels to a quarter, and its output is shuffled. With stride 1, the input is
    added to the result. With stride 2, the input is averaged over 3x3 pixels and concatenated after `channels` new
    channels. A ReLU follows the depthwise convolution, as in RepDistiller. The paper has no ReLU there.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        inner = channels // 4
        self.stride, self.groups = stride, 1 if in_channels == _STEM else groups
        self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def preactivation(self, x: Tensor) -> Tensor:
        out = shuffle_channels(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], 1) if self.stride == 2 else out + x

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.preactivation(x))


class CifarShuffleNetV1(CifarModel):
    """ShuffleNet as in RepDistiller for CIFAR: a 1x1 stem at full resolution, then three stages that each halve it.

    The maps are the outputs of the stem and of the stages, each after its ReLU.

    Args:
        groups: Number of groups of the 1x1 convolutions: 1, 2 or 3. It determines the widths of the stages.
        **kwargs: Arguments of every CifarModel: num_classes, in_chans, drop_rate and global_pool.

    Raises:
        ValueError: if groups has another value.
    """

    classifier_name = "linear"

    def __init__(self, groups: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_choice("groups", groups, _WIDTHS)
        before, maps = _STEM, [("bn1", _STEM, 1)]
        self.conv1 = nn.Conv2d(self.in_chans, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        for stage, (width, count) in enumerate(zip(_WIDTHS[groups], (4, 8, 4), strict=True), start=1):
            units = [ShuffleUnit(before, width - before, 2, groups)]
            units += [ShuffleUnit(width, width, 1, groups) for _ in range(count - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*units))
            maps.append((f"layer{stage}", width, 2**stage))
            before = width
        self.complete(maps)

    def initialize(self, layer: nn.Module) -> None:
        """Keep torch's default, as RepDistiller does."""


register(CifarShuffleNetV1, {"cifar_shufflenetv1": {}})
