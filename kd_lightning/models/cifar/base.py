"""Base of the networks for small images: timm's interface, the classifier, initialisation and registration."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

Step = Callable[[Tensor], Tensor]
default_cfgs: dict[str, Any] = {}  # timm's register_model reads it


class CifarModel(nn.Module):
    """Base of networks with a stem, stages with one feature map each, average pooling and a linear classifier.

    A subclass builds its layers in its constructor, and calls `complete` at the end. By default, the stem consists of
    `conv1` and `bn1`, and the stages are `layer1`, `layer2`, ... A subclass with other names overrides `steps`. By
    default, the last block of each stage has a function `preactivation`, and a ReLU follows it. A subclass with other
    stages overrides `preactivation` and `activate`. A subclass with other initial weights overrides `initialize`.

    Args:
        num_classes: Number of outputs of the classifier. With 0, the logits are the embedding, as in all timm models.
        in_chans: Number of channels of the images.
        drop_rate: Dropout probability before the classifier.
        global_pool: Type of pooling: `avg`, or an empty string for no pooling. Without pooling, the last map is the
            embedding, and num_classes must be 0.

    Raises:
        ValueError: if global_pool has another value, or if it is empty and num_classes is not 0.
    """

    first_conv = "conv1"
    classifier_name = "fc"
    linear_std: float | None = None
    """Standard deviation of the classifier's initial weights, with a bias of 0; None: torch's default for both."""
    skipped = 0
    """Number of first steps that are left out, because the input is the map of the last of them (a branch)."""

    def __init__(
        self, *, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0, global_pool: str = "avg"
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans = num_classes, in_chans
        self.drop_rate, self.global_pool = drop_rate, global_pool

    def stem(self, x: Tensor) -> Tensor:
        """Return the map of the stem for images x."""
        return F.relu(self.bn1(self.conv1(x)))

    def steps(self) -> list[Step]:
        """Return the stem, which computes a map of images, and the stages, which compute a map of the previous map."""
        return [self.stem, *(self.get_submodule(f"layer{stage}") for stage in range(1, len(self.feature_info)))]

    def widen(self, x: Tensor) -> Tensor:
        """Return the input of pooling: the output of the layers after the last map x, or x if there are none."""
        return x

    def initialize(self, layer: nn.Module) -> None:
        """Draw the initial weights of a layer as RepDistiller does. The default is that of the ResNets.

        Weights of convolutions are normal with variance 2 / (kernel height * kernel width * output channels) (He et al.
        2015), their biases are 0. The classifier follows `linear_std`. Other layers have torch's defaults.
        """
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels
            std = math.sqrt(2) / math.sqrt(fan_out)
        else:
            std = self.linear_std if isinstance(layer, nn.Linear) else None
        if std is not None:
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def complete(self, maps: Iterable[tuple[str, int, int]], width: int | None = None) -> None:
        """Complete a constructor: describe the maps of `steps`, add the classifier, and initialise the weights.

        Args:
            maps: Description of each step: the name of its last module, the number of channels of its map, and the
                factor by which the map is smaller than an image of 32 pixels.
            width: Width of the embedding. Default: the number of channels of the last map.
        """
        self.feature_info = [{"num_chs": channels, "reduction": by, "module": name} for name, channels, by in maps]
        self.num_features = self.head_hidden_size = width or self.feature_info[-1]["num_chs"]
        body = [*self.modules()]
        self.reset_classifier(self.num_classes, self.global_pool)
        for layer in body:
            self.initialize(layer)

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in ("avg", "") or (num_classes and not pool):
            raise ValueError(f"global_pool: {pool!r} with {num_classes} classes; choices: avg, or '' with 0 classes")
        self.num_classes, self.global_pool = num_classes, pool
        classifier = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        self.initialize(classifier)
        self.set_submodule(self.classifier_name, classifier)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the maps of the steps at `indices`, or of the last steps if `indices` is a number, as timm does.

        The argument `norm` has no effect.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt: {output_fmt!r} is unknown; choices: NCHW")
        steps = self.steps()
        wanted, last = feature_take_indices(len(steps), indices)
        taken = []
        for number, step in enumerate(steps[: last + 1] if stop_early else steps):
            x = step(x)
            if number in wanted:
                taken.append(x)
        if intermediates_only:
            return taken
        return (x if stop_early and last + 1 < len(steps) else self.widen(x)), taken

    def preactivation(self, number: int, x: Tensor) -> Tensor:
        """Return the output N,C,H,W of step `number` before its last activation, where x is the previous map."""
        if number == 0:
            return self.bn1(self.conv1(x))
        *blocks, last = self.get_submodule(f"layer{number}")
        for block in blocks:
            x = block(x)
        return last.preactivation(x)

    def activate(self, number: int, x: Tensor) -> Tensor:
        """Return the map of step `number`, where x is its pre-activation."""
        return F.relu(x)

    def forward_preactivations(
        self, x: Tensor, count: int, intermediates_only: bool = False
    ) -> tuple[Tensor | None, list[Tensor], list[Tensor]]:
        """Compute the maps of the last `count` steps before and after their last activation, in one pass.

        Returns:
            The input of pooling (None if `intermediates_only`), the maps, and the pre-activations. The input of pooling
            and the maps are exactly equal to those of `forward_intermediates`.
        """
        maps, before = [], []
        for number in range(len(self.feature_info)):
            inner = self.preactivation(number, x)
            x = self.activate(number, inner)
            maps.append(x)
            before.append(inner)
            del maps[:-count], before[:-count]
        return (None if intermediates_only else self.widen(x)), maps, before

    def forward_features(self, x: Tensor) -> Tensor:
        for step in self.steps()[self.skipped :]:
            x = step(x)
        return self.widen(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.global_pool:
            x = x.mean((2, 3))
        x = F.dropout(x, self.drop_rate, self.training) if self.drop_rate else x
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def require_choice(field: str, given: float, choices: Iterable[float]) -> None:
    """Raise a ValueError that names the nearest choice if `given` is not one of the choices."""
    if given not in choices:
        closest = min(choices, key=lambda choice: abs(choice - given))
        raise ValueError(f"{field}: {given} is unknown; nearest: {closest}")


def register(
    network: type[CifarModel],
    models: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Register models with timm.

    Args:
        network: Class of the models.
        models: Arguments of `network` for each name of a model.
        weights: Properties of pretrained weights for each `name.tag`. Default: there are no such weights.
    """
    common = {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": network.first_conv,
        "classifier": network.classifier_name,
    }
    described = {**{name: {} for name in models}, **(weights or {})}
    default_cfgs.update(generate_default_cfgs({name: {**common, **own} for name, own in described.items()}))
    for name, defaults in models.items():
        register_model(_entrypoint(network, name, defaults))


def _entrypoint(network: type[CifarModel], name: str, defaults: Mapping[str, Any]) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        by_getter = {"feature_cls": "getter", "out_indices": 4}  # features_only calls forward_intermediates
        return build_model_with_cfg(network, name, pretrained, feature_cfg=by_getter, **{**defaults, **kwargs})

    create.__name__ = name
    create.network = network  # messages about wrong arguments name those of this class
    return create
