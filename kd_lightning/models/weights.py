"""Load local checkpoints into timm models, with timm's own conversions of checkpoints."""

import math
from collections.abc import Container, Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import timm
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import resolve
from kd_lightning.models import checkpoints, creation
from kd_lightning.models.checkpoints import State
from kd_lightning.models.file_facts import check_classes

_LARGEST_WEIGHT = 1e18
"""Largest absolute value of a weight. The square of a larger value is not finite in float32."""


def load(model: nn.Module, name: str, checkpoint: str, kwargs: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Load a checkpoint into a model, and change the number of classes of the model to that of the checkpoint.

    If the file does not fit the model, timm's conversion of checkpoints for this model is tried. This conversion knows
    the names of the original code, and resamples position embeddings to the size of the model.

    Args:
        model: A timm model.
        name: Its name.
        checkpoint: Path of the file.
        kwargs: Arguments with which the model was created.

    Returns:
        The facts about the network that the file contains (mean, std, size, class_names, ...), and the number of
        classes.

    Raises:
        ConfigError: if the file cannot be read, is from another architecture, or contains facts or numbers that cannot
            be used.
    """
    field = f"{name}: checkpoint"
    path = resolve(checkpoint, field)
    source = f"{field}: {path}"
    original, facts = checkpoints.read(path, field)
    state = checkpoints.clean(original, model, source)
    if path.suffix == ".safetensors" and facts.get("name") not in (None, name) and len(state) < len(original):
        raise ConfigError(
            f"{source} is a {facts['name']}, of which {name} is a part; to load all of it, set name to "
            f"{facts['name']} and model_kwargs to {facts.get('model_kwargs')}; to load only the student, give the "
            "checkpoint of the run (best.ckpt or last.ckpt)"
        )
    classes = _fit_classifier(model, _class_counts(model, state)[0])
    differs = checkpoints.mismatch(model.state_dict(), state)
    if differs:
        converted = _converted(model, name, kwargs, (state, original))
        if converted is None:
            written_by = f" (it has weights of {facts['name']})" if facts.get("name") not in (None, name) else ""
            raise ConfigError(f"{source} does not fit this model{written_by}: {differs}")
        if resized := [key for key in converted if key in state and converted[key].shape != state[key].shape]:
            key = resized[0]
            rank_zero_warn(
                f"{source}: {len(resized)} entries were changed to the shapes of the model, such as {key} from "
                f"{tuple(state[key].shape)} to {tuple(converted[key].shape)}"
            )
        state, classes = converted, model.num_classes
        facts["size"] = None  # the model has another size
    check_classes(facts, classes, source)
    masks = {key for key, _ in model.named_buffers() if "running_" not in key}
    if problem := unusable(model.state_dict(), state, masks):
        raise ConfigError(f"{source} contains {problem}")
    model.load_state_dict(state)
    return facts, classes


def _fit_classifier(model: nn.Module, classes: int) -> int:
    """Change the number of classes of a model to `classes` if it differs, and return `classes`."""
    if classes != model.num_classes:
        creation.set_classes(model, classes)
    return classes


def _class_counts(model: nn.Module, state: State) -> list[int]:
    """Return the possible numbers of classes of a state dict, the most probable one first.

    0 means that there is only a backbone, e.g. a self-supervised teacher. Files of other programs may name the
    classifier differently than the model.
    """
    heads = checkpoints.classifiers(model)
    if not heads:
        return [model.num_classes]
    own = [state[key].shape[0] for name in heads if (key := f"{name}.weight") in state and state[key].ndim >= 2]
    usual = [v.shape[0] for key, v in state.items() if key.split(".")[0] in checkpoints.HEADS and v.ndim >= 2]
    return own[:1] or [0, *usual[-1:]]


def _converted(model: nn.Module, name: str, kwargs: dict[str, Any], states: tuple[State, ...]) -> State | None:
    """Return the first state dict that timm converts to the model's names and shapes, or None if there is none.

    The number of classes of the model becomes that of the state dict.
    """
    for state in states:
        for classes in _class_counts(model, state):
            try:
                converted = _by_timm(model, name, {**kwargs, "num_classes": _fit_classifier(model, classes)}, state)
                if not checkpoints.mismatch(model.state_dict(), converted):
                    return converted
            except Exception:  # timm's conversions raise many types of error for files of another architecture
                continue
    return None


def _by_timm(model: nn.Module, name: str, kwargs: dict[str, Any], state: State) -> State:
    """Return what timm would load into a new model if its pretrained weights were this state dict."""
    loaded: State = {}

    def keep(self: nn.Module, state_dict: State, strict: bool = True, **_: Any) -> SimpleNamespace:
        known = self.state_dict()
        loaded.update({key: value for key, value in state_dict.items() if strict or key in known})
        return SimpleNamespace(missing_keys=[], unexpected_keys=[])

    weights = {"state_dict": dict(state), "num_classes": kwargs["num_classes"], "source": "", "label_offset": None}
    with patch.object(type(model), "load_state_dict", keep):  # timm has no function that only converts
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay=weights, **kwargs)
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            loaded.setdefault(key, torch.zeros_like(value))
    return loaded


def unusable(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], masks: Container[str]) -> str:
    """Return one line with the entries of a state dict that cannot be weights, or '' if there are none.

    Entries that are floating-point numbers in the model must be dense floating-point numbers in the file, and their
    squares must be finite in float32. A running variance must not be negative. Whole numbers in the model, such as
    counters of batches, must be whole numbers in the file.

    Args:
        expected: State dict of the model.
        given: State dict of the file, with the same names and shapes.
        masks: Names of entries that may contain infinities, such as attention masks.
    """
    broken: dict[str, list[str]] = {}
    for key, value in given.items():
        if problem := _problem(expected[key], value, key in masks, key.endswith("running_var")):
            broken.setdefault(problem, []).append(key)
    return "; ".join(
        f"{p}, in {len(keys)} of {len(given)} entries: {', '.join(keys[:3])}" for p, keys in broken.items()
    )


def too_large(model: nn.Module, dtype: torch.dtype) -> list[str]:
    """Return the names of the parameters and buffers that are finite, but would be infinite as `dtype`."""
    return [
        name
        for name, value in model.state_dict().items()
        if value.is_floating_point() and (value.isfinite() & value.to(dtype).isfinite().logical_not()).any()
    ]


def _problem(expected: Tensor, given: Tensor, is_mask: bool, is_variance: bool) -> str:
    if given.layout != torch.strided or given.is_meta or given.is_quantized:
        return "tensors without ordinary values"
    if expected.is_floating_point() != given.is_floating_point() or given.is_complex():
        wanted = "floating-point" if expected.is_floating_point() else "whole"
        return f"{str(given.dtype).removeprefix('torch.')} instead of {wanted} numbers"
    if is_mask or not given.is_floating_point() or not given.numel():
        return ""
    low, high = map(float, (given if given.dtype == torch.float64 else given.float()).aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        return "numbers that are not finite"
    if max(-low, high) > _LARGEST_WEIGHT:
        return f"numbers above {_LARGEST_WEIGHT:g}"
    return "negative variances" if is_variance and low < 0 else ""
