"""Create timm models by name, and load local checkpoints into them."""

from typing import Any

import timm
from timm.data import ImageNetInfo
from torch import nn

from kd_lightning.errors import ConfigError, nearest, one_line
from kd_lightning.io.paths import resolve
from kd_lightning.models import checkpoints


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
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{name}: timm does not accept model_kwargs {kwargs}: {error}") from error
    except (OSError, RuntimeError) as error:
        if not pretrained and local and not kwargs:
            raise
        if not pretrained and local:
            raise ConfigError(f"{name}: timm does not accept model_kwargs {kwargs}: {error}") from error
        reason = one_line(error)
        raise ConfigError(
            f"{name}: its weights cannot be loaded ({reason}); give a local file as checkpoint instead"
        ) from error


def load(model: nn.Module, name: str, checkpoint: str) -> tuple[dict[str, Any], int]:
    """Load a checkpoint into a model, and change the number of classes of the model to that of the checkpoint.

    Returns:
        The facts about the network that the file contains (mean, std, size, class_names, ...), and the number of
        classes.

    Raises:
        ConfigError: if the file cannot be read, is from another architecture, or contains numbers that are not finite.
    """
    field = f"{name}: checkpoint"
    path = resolve(checkpoint, field)
    state, facts = checkpoints.read(path, field)
    state = checkpoints.clean(state, model, f"{field}: {path}")
    classifier = model.default_cfg.get("classifier")
    head = state.get(f"{classifier}.weight")
    classes = model.num_classes if head is None else head.shape[0]
    if head is None and isinstance(classifier, str):
        classes = 0  # a backbone without classifier, e.g. a self-supervised teacher
    if classes != model.num_classes:
        model.reset_classifier(classes)
    differs = checkpoints.mismatch(model.state_dict(), state)
    if differs:
        written_by = f" (it is a {facts['name']})" if facts.get("name", name) != name else ""
        raise ConfigError(f"{field}: {path} does not fit this model{written_by}: {differs}")
    masks = {name for name, _ in model.named_buffers() if "running_" not in name}  # masks may contain infinities
    if broken := checkpoints.not_finite({name: value for name, value in state.items() if name not in masks}):
        raise ConfigError(f"{field}: {path} contains numbers that are not finite, in {broken}")
    model.load_state_dict(state)
    return facts, classes


def class_names(model: nn.Module, facts: dict[str, Any], pretrained: bool) -> list[str] | None:
    """Return the class names in the order of the classifier, or None if the names are unknown.

    The names come from the file. If timm's tag of the weights ends with `in1k`, they are the WordNet ids of
    ImageNet-1k.
    """
    if pretrained and model.num_classes == 1000 and str(model.pretrained_cfg.get("tag")).endswith("in1k"):
        return ImageNetInfo("imagenet-1k").label_names()
    return facts.get("class_names")


def own_size(model: nn.Module, pretrained: bool) -> int | None:
    """Return the side in pixels that a model requires, or at which its weights were trained.

    ViTs with a strict patch embedding accept only one side. Return None if the model accepts any side and the side of
    the training is unknown.
    """
    patches = getattr(model, "patch_embed", None)
    if getattr(patches, "img_size", None) and getattr(patches, "strict_img_size", True):
        return patches.img_size[0]
    if pretrained or model.pretrained_cfg.get("fixed_input_size"):
        return model.pretrained_cfg["input_size"][-1]
    return None
