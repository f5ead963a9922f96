"""Wide ResNets for 32-pixel images: `cifar_wrn_DEPTH_WIDEN` (Zagoruyko & Komodakis 2016)."""

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.models.cifar.base import CifarModel, Step, register


class PreactivationBlock(nn.Module):
    """BN, ReLU and a 3x3 convolution, twice, and a shortcut (Zagoruyko & Komodakis 2016, Fig. 1c, without dropout).

    If the width or the resolution changes, the shortcut is a 1x1 convolution of the output of the first ReLU.
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

    The maps of the stem and of the three stages are their sums without BN and ReLU, because it is a pre-activation
    network. The released code of RepDistiller, mdistiller and attention transfer distils these maps. The pre-activation
    of a stage is its sum (of the stem: its map) after the next BN and before the ReLU. This is the first BN of the next
    stage, or the final BN after the last stage (as in RepDistiller for AB and OFD). `widen` returns the input of
    pooling, which is the last sum after the final BN and ReLU.

    Args:
        depth: number of layers, which is 6n + 4 with n blocks per stage.
        widen: factor on the channels of the stages; the stem has 16 channels.
        activated: whether the last map is taken after the final BN and ReLU; it is then the input of pooling, of which
            `Network.classify` computes class maps.
        **kwargs: num_classes, in_chans, drop_rate and global_pool, as for every CifarModel.

    Raises:
        ValueError: for a depth that is not 6n + 4 or a factor below 1.
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
        """Draw the first weights as the ResNets do, but with a bias of 0 in the classifier, as RepDistiller does."""
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
