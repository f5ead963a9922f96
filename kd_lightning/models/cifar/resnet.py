"""ResNets for 32-pixel images: `cifar_resnet*` (He et al. 2016)."""

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.models.cifar.base import CifarModel, register

Shortcut = Literal["A", "B"]
_WEIGHTS = Path(__file__).parents[1] / "weights"


class BasicBlock(nn.Module):
    """Block of two 3x3 convolutions and a shortcut (He et al. 2016, Fig. 2)."""

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.widening, self.downsample = stride, channels - in_channels, None
        if shortcut == "B" and (stride != 1 or self.widening):
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def shortcut(self, x: Tensor) -> Tensor:
        if self.downsample is not None:
            return self.downsample(x)
        if self.stride == 1 and not self.widening:
            return x
        before = self.widening // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.widening - before))

    def preactivation(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(out)) + self.shortcut(x)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.preactivation(x))


class CifarResNet(CifarModel):
    """The CIFAR ResNet of He et al. 2016, section 4.2: three stages at full, half and quarter resolution.

    The maps are the outputs of the stem and of the three stages, each after its ReLU.

    Args:
        depth: Number of layers, which is 6n + 2 with n blocks per stage.
        channels: Numbers of channels of the stem and of the three stages.
        shortcut: Type of the shortcut at the start of a stage. `A` subsamples the input and adds channels of zeros, as
            in the paper. `B` is a 1x1 convolution, as in RepDistiller and mdistiller. Checkpoints with `B` have keys
            such as `layer1.0.downsample.0`.
        **kwargs: Arguments of every CifarModel: num_classes, in_chans, drop_rate and global_pool.

    Raises:
        ValueError: if depth is not 6n + 2, or if the shortcut is unknown.
    """

    def __init__(
        self,
        depth: int,
        channels: tuple[int, int, int, int] = (16, 16, 32, 64),
        shortcut: Shortcut = "A",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth: {depth} is not 6n + 2; nearest: {max(8, round((depth - 2) / 6) * 6 + 2)}")
        if shortcut not in ("A", "B"):
            raise ValueError(f"shortcut: {shortcut!r} is unknown; choices: A, B")
        self.conv1 = nn.Conv2d(self.in_chans, channels[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        maps = [("bn1", channels[0], 1)]
        for stage, (before, width) in enumerate(pairwise(channels), start=1):
            stride = 1 if stage == 1 else 2
            blocks = [BasicBlock(before, width, stride, shortcut)]
            blocks += [BasicBlock(width, width, 1, shortcut) for _ in range((depth - 2) // 6 - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            maps.append((f"layer{stage}", width, 2 ** (stage - 1)))
        self.complete(maps)


_X4 = {"channels": (32, 64, 128, 256), "shortcut": "B"}  # RepDistiller's widths (Tian et al. 2020)
register(
    CifarResNet,
    {
        **{f"cifar_resnet{depth}": {"depth": depth} for depth in (8, 14, 20, 32, 44, 56, 110)},
        "cifar_resnet8x4": {"depth": 8, **_X4},
        "cifar_resnet32x4": {"depth": 32, **_X4},
    },
    # trained by configs/digits/teacher.yaml
    {"cifar_resnet20.digits": {"input_size": (3, 8, 8), "file": str(_WEIGHTS / "cifar_resnet20.digits.safetensors")}},
)
