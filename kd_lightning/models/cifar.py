"""ResNets for 32-pixel images, registered with timm under `cifar_resnet*`."""

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

Shortcut = Literal["A", "B"]
_WEIGHTS = Path(__file__).parent / "weights"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, Fig. 2)."""

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

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """The CIFAR ResNet of He et al. 2016, section 4.2: three stages at full, half and quarter resolution.

    Args:
        depth: 6n + 2 layers with n blocks a stage.
        channels: width of the stem and of the three stages.
        shortcut: where a stage begins, A subsamples and pads with zero channels (the paper's), B convolves 1x1
            (as in RepDistiller and mdistiller, whose checkpoints have keys such as `layer1.0.downsample.0`).
        num_classes: width of the classifier `fc`; 0 gives the embedding as logits, as everywhere in timm.
        in_chans: channels of the images.
        drop_rate: dropout before the classifier.
        global_pool: `avg`, the only pooling there is (or `` for none); timm passes it.

    Raises:
        ValueError: for a depth that is not 6n + 2 or an unknown shortcut.
    """

    def __init__(
        self,
        depth: int,
        channels: tuple[int, int, int, int] = (16, 16, 32, 64),
        shortcut: Shortcut = "A",
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth: {depth} is not 6n + 2; nearest: {max(8, round((depth - 2) / 6) * 6 + 2)}")
        if shortcut not in ("A", "B"):
            raise ValueError(f"shortcut: {shortcut!r} is unknown; choices: A, B")
        self.num_classes, self.drop_rate, self.pooled = num_classes, drop_rate, global_pool == "avg"
        self.num_features = self.head_hidden_size = channels[3]
        self.conv1 = nn.Conv2d(in_chans, channels[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.feature_info = [{"num_chs": channels[0], "reduction": 1, "module": "bn1"}]
        for stage, (before, width) in enumerate(pairwise(channels), start=1):
            stride = 1 if stage == 1 else 2
            blocks = [BasicBlock(before, width, stride, shortcut)]
            blocks += [BasicBlock(width, width, 1, shortcut) for _ in range((depth - 2) // 6 - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": width, "reduction": 2 ** (stage - 1), "module": f"layer{stage}"})
        self.fc = nn.Linear(channels[3], num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The stem's and the stages' outputs at `indices` (the last n if an int), as timm's networks give them."""
        wanted, last = feature_take_indices(4, indices)
        x = F.relu(self.bn1(self.conv1(x)))
        maps = [x] if 0 in wanted else []
        for stage, layer in enumerate((self.layer1, self.layer2, self.layer3), start=1):
            if stop_early and stage > last:
                break
            x = layer(x)
            if stage in wanted:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.pooled:
            x = x.mean((2, 3))
        x = F.dropout(x, self.drop_rate, self.training) if self.drop_rate else x
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1",
        "classifier": "fc",
        **kwargs,
    }


_X4 = {"channels": (32, 64, 128, 256), "shortcut": "B"}  # RepDistiller's widths (Tian et al. 2020)
_MODELS: dict[str, dict[str, Any]] = {
    **{f"cifar_resnet{depth}": {"depth": depth} for depth in (8, 14, 20, 32, 44, 56, 110)},
    "cifar_resnet8x4": {"depth": 8, **_X4},
    "cifar_resnet32x4": {"depth": 32, **_X4},
}
default_cfgs = generate_default_cfgs(
    {
        **{name: _cfg() for name in _MODELS},
        # trained by configs/digits/teacher.yaml
        "cifar_resnet20.digits": _cfg(input_size=(3, 8, 8), file=str(_WEIGHTS / "cifar_resnet20.digits.safetensors")),
    }
)


def _register(name: str, defaults: dict[str, Any]) -> None:
    def create(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
        return build_model_with_cfg(CifarResNet, name, pretrained, **{**defaults, **kwargs})

    create.__name__ = name
    register_model(create)


for _name, _defaults in _MODELS.items():
    _register(_name, _defaults)
