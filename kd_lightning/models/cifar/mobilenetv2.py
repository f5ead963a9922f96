"""MobileNetV2 for 32-pixel images: `cifar_mobilenetv2` (Sandler et al. 2018)."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from kd_lightning.models.cifar.base import CifarModel, Step, register

# channels, blocks and stride of each sequence (Sandler et al. 2018, Table 2); the strides are those for 32 pixels
_SEQUENCES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
_STAGES = ((0, 2), (2, 3), (3, 5), (5, 7))  # the sequences of each stage: first, end


def _convolution(before: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(before, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(width), nn.ReLU()]


class InvertedResidual(nn.Module):
    """Block of a 1x1 convolution to `expansion` times the width, a 3x3 depthwise convolution and a 1x1 convolution.

    No ReLU follows the last convolution. The input is added to the output if both have the same shape.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        layers = [*_convolution(in_channels, inner, 1), *_convolution(inner, inner, 3, stride, inner)]
        layers += _convolution(inner, channels, 1)[:2]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class CifarMobileNetV2(CifarModel):
    """MobileNetV2 as in RepDistiller for CIFAR, with maps at half, half, quarter, eighth and sixteenth resolution.

    The first map is the output of the stem after its ReLU. The other maps are the outputs of four stages. No ReLU
    follows these stages, because they end in linear bottlenecks. Their pre-activations are therefore equal to their
    maps. The last map is the input of the head convolution, which has the 1280 channels of the embedding.

    Args:
        width_mult: Factor of all widths. The results are rounded down to integers. The head has at least 1280 channels.
        expansion: Expansion factor t of the blocks after the first sequence.
        **kwargs: Arguments of every CifarModel: num_classes, in_chans, drop_rate and global_pool.

    Raises:
        ValueError: if width_mult leaves no channel, or if expansion is below 1.
    """

    first_conv = "conv1.0"
    classifier_name = "classifier.0"
    linear_std = 0.01

    def __init__(self, width_mult: float = 0.5, expansion: int = 6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if width_mult * 16 < 1:
            raise ValueError(f"width_mult: {width_mult} leaves no channel; nearest: {1 / 16}")
        if expansion < 1:
            raise ValueError(f"expansion: {expansion} is below 1; nearest: 1")
        before = int(32 * width_mult)
        widths = [int(channels * width_mult) for channels, _, _ in _SEQUENCES]
        self.conv1 = nn.Sequential(*_convolution(self.in_chans, before, 3, stride=2))
        maps = [("conv1", before, 2)]
        self.blocks = nn.ModuleList()
        for number, (width, (_, count, stride)) in enumerate(zip(widths, _SEQUENCES, strict=True)):
            blocks = []
            for position in range(count):
                blocks.append(InvertedResidual(before, width, 1 if position else stride, expansion if number else 1))
                before = width
            self.blocks.append(nn.Sequential(*blocks))
        for power, (_, end) in enumerate(_STAGES, start=1):
            maps.append((f"blocks.{end - 1}", widths[end - 1], 2**power))
        wide = int(1280 * max(width_mult, 1.0))
        self.conv2 = nn.Sequential(*_convolution(before, wide, 1))
        self.classifier = nn.Sequential()
        self.complete(maps, wide)

    def stage(self, first: int, end: int, x: Tensor) -> Tensor:
        for number in range(first, end):
            x = self.blocks[number](x)
        return x

    def steps(self) -> list[Step]:
        return [self.conv1, *(partial(self.stage, first, end) for first, end in _STAGES)]

    def preactivation(self, number: int, x: Tensor) -> Tensor:
        if number:
            return self.steps()[number](x)
        convolution, norm, _ = self.conv1
        return norm(convolution(x))

    def activate(self, number: int, x: Tensor) -> Tensor:
        return x if number else self.conv1[-1](x)

    def widen(self, x: Tensor) -> Tensor:
        return self.conv2(x)


register(CifarMobileNetV2, {"cifar_mobilenetv2": {}})
