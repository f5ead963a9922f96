"""Create timm models by name, and read their sizes."""

import inspect
import re
from numbers import Real
from typing import Any

import timm
from timm.data import ImageNetInfo
from timm.layers import ClassifierHead
from torch import nn

from kd_lightning.batch import LARGEST_SIDE
from kd_lightning.errors import ConfigError, nearest, one_line

_REFUSALS = (TypeError, ValueError, AssertionError, AttributeError, LookupError, ArithmeticError)
_INTERFACE = (
    "forward_features",
    "forward_head",
    "get_classifier",
    "reset_classifier",
    "num_classes",
    "head_hidden_size",
)
_OTHER_FIELDS = {
    "num_classes": "give it as num_classes of the network",
    "pretrained": "give it as pretrained of the network",
    "checkpoint_path": "give it as checkpoint of the network",
    "pretrained_cfg": "give pretrained or checkpoint of the network",
    "pretrained_cfg_overlay": "give pretrained or checkpoint of the network",
    "pretrained_strict": "remove it, because weights must fit the network",
    "pretrained_filter_fn": "remove it, because timm's own conversion of weights is used",
    "pretrained_model_args": "remove it",
    "features_only": "remove it, because methods read the maps of the complete network",
    "out_indices": "remove it, because methods read the maps of the complete network",
    "feature_cls": "remove it, because methods read the maps of the complete network",
}


def check_kwargs(name: str, kwargs: dict[str, Any]) -> None:
    """Check that the arguments of a model leave an image classifier or a backbone for colour images.

    Raises:
        ConfigError: if an argument belongs to another field, if the model would return other outputs than a Network
            needs, if the model would take images with another number of channels, or if a dropout rate is not a rate.
    """
    for key, advice in _OTHER_FIELDS.items():
        if kwargs.get(key) not in (None, False) or (key == "num_classes" and kwargs.get(key) == 0):
            raise ConfigError(f"{name}: model_kwargs.{key} is {kwargs[key]!r}; {advice}")
    for key in ("in_chans", "chans"):
        if kwargs.get(key) not in (None, 3):
            raise ConfigError(
                f"{name}: model_kwargs.{key} is {kwargs[key]!r}; remove it, because all images have 3 channels (grey "
                "images are converted)"
            )
    for key, value in kwargs.items():
        if "drop" in key and key.endswith("_rate") and value is not None:
            values = value if isinstance(value, list | tuple) else [value]
            if not all(isinstance(each, Real) and not isinstance(each, bool) and 0 <= each < 1 for each in values):
                raise ConfigError(f"{name}: model_kwargs.{key} is {value!r}; a rate must be at least 0 and below 1")
    if "global_pool" in kwargs and not kwargs["global_pool"] and kwargs["global_pool"] is not None:
        raise ConfigError(
            f"{name}: model_kwargs.global_pool is {kwargs['global_pool']!r}, but the classifier needs pooled features; "
            "give a type of pooling, such as avg, or remove it"
        )


def create(name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    """Return a new timm model. If `pretrained` is true, the model has timm's weights for the name.

    Raises:
        ConfigError: if the name is unknown, if the model does not accept the arguments, or if the weights cannot be
            loaded. For an unknown name, the message contains the nearest names.
    """
    local = not name.startswith(("hf_hub:", "hf-hub:", "local-dir:"))
    base, _, tag = name.partition(".")
    if local and not timm.is_model(base):
        raise ConfigError(f"name: timm has no model {name!r}{nearest(base, timm.list_models())}")
    if local and tag and not timm.is_model_pretrained(name):
        raise ConfigError(f"name: timm has no weights {name!r}{nearest(name, timm.list_pretrained(f'{base}.*'))}")
    try:
        model = timm.create_model(name, pretrained=pretrained, **kwargs)
    except _REFUSALS as error:
        raise ConfigError(f"{name}: {_refusal(base, kwargs, error)}") from error
    except (OSError, RuntimeError) as error:
        if not pretrained and local and not kwargs:
            raise
        if not pretrained and local:
            raise ConfigError(f"{name}: {_refusal(base, kwargs, error)}") from error
        reason = one_line(error)
        raise ConfigError(
            f"{name}: its weights cannot be loaded ({reason}); give a local file as checkpoint instead"
        ) from error
    if missing := [part for part in _INTERFACE if not hasattr(model, part)]:
        raise ConfigError(
            f"{name}: timm provides this network without a classifier (it has no {missing[0]}); choose another network"
        )
    return model


def _refusal(base: str, kwargs: dict[str, Any], error: Exception) -> str:
    """Return the words for the error of a network that does not accept its arguments."""
    reason, given = one_line(error), {key: value for key, value in kwargs.items() if key != "num_classes"}
    found = re.search(r"unexpected keyword argument '(\w+)'", reason)
    own = getattr(timm.model_entrypoint(base), "network", None) if timm.is_model(base) else None
    if found and found[1] in given:
        return f"model_kwargs.{found[1]} is not an argument of this network{nearest(found[1], _arguments(own))}"
    if own is None or not given:
        return f"timm does not accept model_kwargs {given or kwargs}: {reason}"
    if reason.partition(":")[0] in given:
        return f"model_kwargs.{reason}"
    return f"the network does not accept model_kwargs {given}: {reason}"


def _arguments(network: type | None) -> set[str]:
    """Return the arguments of a class of this package, and of its bases, that model_kwargs may set; {} without one."""
    bases = [base for base in getattr(network, "__mro__", ()) if base.__module__.startswith("kd_lightning.")]
    parameters = [each for base in bases for each in inspect.signature(base).parameters.values()]
    names = {each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD}
    return names - {"num_classes", "in_chans"}


def set_classes(model: nn.Module, classes: int) -> None:
    """Replace all classifiers of a model by new ones with another number of classes.

    By default, timm would drop the second classifier of some distilled networks (RepViT, iFormer). Files with their
    weights would then not fit the model of this name.
    """
    has_second = getattr(model, "distillation", getattr(getattr(model, "head", None), "distillation", False))
    takes_second = "distillation" in inspect.signature(model.reset_classifier).parameters
    model.reset_classifier(classes, **({"distillation": bool(has_second)} if takes_second else {}))


def class_names(model: nn.Module, facts: dict[str, Any], pretrained: bool) -> list[str] | None:
    """Return the class names in the order of the classifier, or None if the names are unknown.

    The names come from the file. If timm's tag of the weights ends with `in1k`, they are the WordNet ids of
    ImageNet-1k.
    """
    if pretrained and model.num_classes == 1000 and str(model.pretrained_cfg.get("tag")).endswith("in1k"):
        return ImageNetInfo("imagenet-1k").label_names()
    return facts.get("class_names")


def built_size(name: str, model: nn.Module, kwargs: dict[str, Any]) -> int | None:
    """Return the side in pixels for which a model was built, or None if it was built for any side.

    The side is `img_size` of the model's arguments, or the side of a patch embedding that accepts only one side.

    Raises:
        ConfigError: if this side is not a whole number, or if height and width differ.
    """
    given = None if kwargs.get("dynamic_img_size") else kwargs.get("img_size")
    patches = getattr(model, "patch_embed", None)
    if given is None and getattr(patches, "img_size", None) and getattr(patches, "strict_img_size", True):
        given = patches.img_size
    sides = set(given) if isinstance(given, list | tuple) else {given}
    side = sides.pop()
    if sides or not (side is None or (type(side) is int and 1 <= side <= LARGEST_SIDE)):
        raise ConfigError(
            f"{name}: model_kwargs.img_size is {given}; it must be one whole number from 1 to {LARGEST_SIDE}, because "
            "images are resized to squares"
        )
    return side


def trained_size(model: nn.Module, pretrained: bool, kwargs: dict[str, Any]) -> int | None:
    """Return the side in pixels at which timm trained the weights of a model, or the default side of the model.

    Return None if this side is unknown, or if the model has random weights and accepts any side.
    """
    fixed = model.pretrained_cfg.get("fixed_input_size") and not kwargs.get("dynamic_img_size")
    return model.pretrained_cfg["input_size"][-1] if pretrained or fixed else None


def embedding_width(model: nn.Module) -> int:
    """Return the width of the input of a model's classifier. Some types of pooling multiply the number of channels."""
    layer = model.get_classifier()
    layer = layer.fc if isinstance(layer, ClassifierHead) else layer
    return layer.in_features if isinstance(layer, nn.Linear) else model.head_hidden_size
