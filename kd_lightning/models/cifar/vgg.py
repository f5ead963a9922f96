"""VGGs with batch normalisation for 32-pixel images: `cifar_vgg*` (Simonyan & Zisserman 2015)."""

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.models.cifar.base import CifarModel, Step, register, require_choice

_WIDTHS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {  # per stage, by depth; 11 to 19 are the paper's A, B, D and E, 8 is RepDistiller's S
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class CifarVGG(CifarModel):
    """VGG with BatchNorm after every convolution, and with one linear layer after pooling instead of three.

    The maps are the outputs of the five stages, each after its last ReLU. The max pooling belongs to the start of the
    next stage. The maps have full, half, quarter, eighth and eighth resolution. For images of 64 pixels or more, the
    last map has a sixteenth of the resolution, as in RepDistiller.

    Args:
        depth: Number of convolutions plus 3, as in the names of VGGs: 8, 11, 13, 16 or 19.
        **kwargs: Arguments of every CifarModel: num_classes, in_chans, drop_rate and global_pool.

    Raises:
        ValueError: if depth has another value.
    """

    first_conv = "block0.0"
    classifier_name = "classifier"
    linear_std = 0.01

    def __init__(self, depth: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_choice("depth", depth, _CONVOLUTIONS)
        before = self.in_chans
        for stage, (width, count) in enumerate(zip(_WIDTHS, _CONVOLUTIONS[depth], strict=True)):
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            self.add_module(f"block{stage}", nn.Sequential(*layers))
        self.complete((f"block{stage}", _WIDTHS[stage], 2 ** min(stage, 3)) for stage in range(5))

    def preactivation(self, number: int, x: Tensor) -> Tensor:
        pooled = 0 < number < 4 or (number == 4 and x.shape[-1] >= 8)
        x = F.max_pool2d(x, 2) if pooled else x
        *layers, _ = self.get_submodule(f"block{number}")
        for layer in layers:
            x = layer(x)
        return x

    def stage(self, number: int, x: Tensor) -> Tensor:
        return self.activate(number, self.preactivation(number, x))

    def steps(self) -> list[Step]:
        return [partial(self.stage, number) for number in range(5)]


register(CifarVGG, {f"cifar_vgg{depth}": {"depth": depth} for depth in _CONVOLUTIONS})
