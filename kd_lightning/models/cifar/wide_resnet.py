"""Wide ResNets for 32-pixel images: `cifar_wrn_DEPTH_WIDEN` (Zagoruyko & Komodakis 2016)."""

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.models.cifar.base import CifarModel, Step, register


class PreactivationBlock(nn.Module):
    """Block of two sequences (BatchNorm, ReLU, 3x3 convolution) and a shortcut (Zagoruyko & Komodakis 2016, Fig. 1c).

    There is no dropout. If the width or the resolution changes, the shortcut is a 1x1 convolution of the output of the
    first ReLU.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        same = stride == 1 and in_channels == channels
        self.convShortcut = None if same else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.after_norm(self.bn1(x), x)

    def after_norm(self, normed: Tensor, x: Tensor) -> Tensor:
        """Return the block's output N,C,H,W for its input x, where `normed` is bn1(x)."""
        active = F.relu(normed)
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class CifarWideResNet(CifarModel):
    """Wide ResNet: three stages with `widen` times 16, 32 and 64 channels at full, half and quarter resolution.

    Each block begins with BatchNorm and ReLU. The maps of the stem and of the stages are their outputs, to which no
    BatchNorm and no ReLU has been applied. The released codes of attention transfer, RepDistiller and mdistiller also
    distil these maps. The input of pooling is the last map after the final BatchNorm and ReLU, which the method
    `CifarWideResNet.widen` applies.

    The pre-activation of the stem or of a stage is its output after the next BatchNorm and before the next ReLU, as in
    RepDistiller for the methods AB and OFD. The next BatchNorm is the first one of the next stage. After the last
    stage, it is the final BatchNorm.

    Args:
        depth: Number of layers, which is 6n + 4 with n blocks per stage.
        widen: Factor of the channels of the stages. The stem has 16 channels.
        activated: Whether the last map is taken after the final BatchNorm and ReLU. It is then the input of pooling,
            so that `Network.classify` can compute class maps from it.
        **kwargs: Arguments of every CifarModel: num_classes, in_chans, drop_rate and global_pool.

    Raises:
        ValueError: if depth is not 6n + 4, or if widen is below 1.
    """

    def __init__(self, depth: int, widen: int, activated: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth: {depth} is not 6n + 4; nearest: {max(10, round((depth - 4) / 6) * 6 + 4)}")
        if widen < 1:
            raise ValueError(f"widen: {widen} is below 1; nearest: 1")
        self.activated = activated
        channels = (16, 16 * widen, 32 * widen, 64 * widen)
        self.conv1 = nn.Conv2d(self.in_chans, 16, 3, 1, 1, bias=False)
        maps = [("conv1", 16, 1)]
        for stage, (before, width) in enumerate(pairwise(channels), start=1):
            blocks = [PreactivationBlock(before, width, 1 if stage == 1 else 2)]
            blocks += [PreactivationBlock(width, width, 1) for _ in range((depth - 4) // 6 - 1)]
            self.add_module(f"block{stage}", nn.Sequential(OrderedDict(layer=nn.Sequential(*blocks))))
            maps.append((f"block{stage}", width, 2 ** (stage - 1)))
        self.bn1 = nn.BatchNorm2d(channels[3])
        self.complete([*maps[:3], ("bn1", channels[3], 4)] if activated else maps)

    def initialize(self, layer: nn.Module) -> None:
        """Draw the initial weights as the ResNets do, but with a bias of 0 in the classifier, as RepDistiller does."""
        super().initialize(layer)
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)

    def steps(self) -> list[Step]:
        return [self.conv1, self.block1, self.block2, self.last if self.activated else self.block3]

    def last(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.block3(x)))

    def widen(self, x: Tensor) -> Tensor:
        return x if self.activated else F.relu(self.bn1(x))

    def forward_preactivations(
        self, x: Tensor, count: int, intermediates_only: bool = False
    ) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
        maps, before = [], []
        x = self.conv1(x)
        for stage in (self.block1, self.block2, self.block3):
            first, *others = stage.layer
            normed = first.bn1(x)  # used by the block too, so that its running statistics are updated once
            maps.append(x)
            before.append(normed)
            x = first.after_norm(normed, x)
            for block in others:
                x = block(x)
        before.append(self.bn1(x))
        final = F.relu(before[-1])
        maps.append(final if self.activated else x)
        return (None if intermediates_only else final), maps[-count:], before[-count:]


_SIZES = ((16, 1), (16, 2), (16, 8), (40, 1), (40, 2), (28, 4), (28, 10))
register(CifarWideResNet, {f"cifar_wrn_{depth}_{widen}": {"depth": depth, "widen": widen} for depth, widen in _SIZES})
