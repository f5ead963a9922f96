"""The state of callbacks in a checkpoint: its form is checked, and it may not choose a path or a setting of the run."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer, WeightAveraging
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor

from kd_lightning.callbacks.ema import EMA
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.models import checkpoints, weights
from kd_lightning.runs.state_form import check_form, odd

BEST, LAST = "best.ckpt", "last.ckpt"
_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
_INSTEAD = "load only the student instead (model.student.checkpoint)"


def check_states(method: StudentModule, content: dict[str, Any], path: Path) -> None:
    """Raise an error if a callback of the run cannot continue from its state in a checkpoint; nothing is changed.

    States are compared with the state that the callback has at the start of a run. Only callbacks of this package and
    of Lightning are compared. States of callbacks that the run does not have are ignored.

    Args:
        method: method of the run, with its trainer.
        content: content of the checkpoint.
        path: path of the checkpoint.

    Raises:
        ConfigError: in this case. The message names the entry.
    """
    trainer, states = method.trainer, content["callbacks"]
    if wrong := next((name for name, state in states.items() if not isinstance(state, Mapping)), None):
        raise odd(path, f"callbacks.{wrong}", "has another form")
    restrict_states(trainer, {"callbacks": {key: {**state} for key, state in states.items()}}, path)
    for callback in trainer.callbacks:
        key = callback.state_key
        if key in states and type(callback).__module__.startswith(("kd_lightning.", "lightning.")):
            _check_state(callback, states[key], f"callbacks.{key}", path)
        if isinstance(callback, WeightAveraging):
            _check_averages(callback, method, content, path)
    skipped = states.get("NonFiniteGuard", {}).get("skipped", 0)
    if isinstance(skipped, int) and skipped > content["global_step"]:
        raise odd(path, "callbacks.NonFiniteGuard.skipped", f"is {skipped}, which is more than all steps of the run")


def _check_state(callback: Callback, state: Mapping[str, Any], name: str, path: Path) -> None:
    own = {**callback.state_dict()}
    for key in own.keys() & _AT_FIRST_NONE.keys():
        if own[key] is None and state.get(key) is not None:
            own[key] = _AT_FIRST_NONE[key]
    if isinstance(callback, Timer):  # its seconds are whole numbers until it has started
        own["time_elapsed"] = dict.fromkeys(own["time_elapsed"], 0.0)
    newer = {"stopping_reason", "stopping_reason_message"} - state.keys()  # earlier versions of Lightning lack these
    check_form({key: value for key, value in own.items() if key not in newer}, state, name, path)
    reasons = [reason.value for reason in EarlyStoppingReason]
    if isinstance(callback, EarlyStopping) and state.get("stopping_reason", reasons[0]) not in reasons:
        raise odd(path, f"{name}.stopping_reason", "has another form")


_AT_FIRST_NONE = {
    "found": 1.0,  # of RunLearningRateFinder
    "previous_backbone_lr": 1.0,
    "stopping_reason_message": "",
    "scheduler_state": {},
    "average_model_state": {},
}
"""Examples of values that are None until a callback has stored something."""


def _check_averages(callback: WeightAveraging, method: StudentModule, content: dict[str, Any], path: Path) -> None:
    """Raise an error if averaged weights do not have the names and shapes of the weights, or are not finite."""
    student = {f"module.{name}": value for name, value in method.deployed.state_dict().items()}
    own: dict[str, dict[str, Any]] = {"ema": {**student, "n_averaged": torch.tensor(0)}}
    if not isinstance(callback, EMA):
        own = {"current_model_state": method.state_dict(), "averaging_state": {"n_averaged": torch.tensor(0)}}
    masks = {f"module.{name}" for name, _ in method.deployed.named_buffers() if "running_" not in name}
    masks |= {name for name, _ in method.named_buffers() if "running_" not in name}
    for name, expected in own.items():
        if name not in content:
            continue
        given = content[name]
        if not isinstance(given, Mapping) or not all(isinstance(value, Tensor) for value in given.values()):
            raise odd(path, name, "has another form")
        if problem := checkpoints.mismatch(expected, given) or weights.unusable(expected, given, masks):
            raise odd(path, name, f"does not fit the networks of this run ({problem})")


def restrict_states(trainer: Trainer, checkpoint: dict[str, Any], start: Path) -> None:
    """Replace the paths and the settings in the states of a checkpoint's callbacks by those of the callbacks.

    Lightning deletes the files and folders that the state of a ModelCheckpoint names. Therefore, the folder in a state
    is replaced by the folder of the callback. Each path must then be a checkpoint in this folder. EarlyStopping would
    take its patience from the state; the patience of the config replaces it.

    Args:
        trainer: trainer with the callbacks.
        checkpoint: content of a checkpoint. The states of its callbacks are changed.
        start: path of the checkpoint.

    Raises:
        ConfigError: for a state of another format, or for a path outside the folder of the callback or of the run.
    """
    states = checkpoint.get("callbacks")
    if states is None:
        return
    if not isinstance(states, dict):
        raise ConfigError(f"ckpt_path: the states of the callbacks are a {type(states).__name__}, not a dict")
    for callback in trainer.callbacks:
        name, key = type(callback).__name__, callback.state_key
        if states.get(key) is None:
            continue
        if not isinstance(states[key], dict):
            raise ConfigError(f"ckpt_path: the state of {name} is a {type(states[key]).__name__}, not a dict")
        if isinstance(callback, ModelCheckpoint):
            states[key] = _own_checkpoints(callback, states[key], Path(trainer.default_root_dir))
        else:
            _check_no_path(name, states[key], Path(trainer.default_root_dir), start.parent)
        if isinstance(callback, EarlyStopping) and "patience" in states[key]:
            states[key] = {**states[key], "patience": callback.patience}


def _own_checkpoints(callback: ModelCheckpoint, state: dict[str, Any], run: Path) -> dict[str, Any]:
    models = state.get("best_k_models")
    models = {} if models is None else models
    if not isinstance(models, dict):
        raise ConfigError(f"ckpt_path: best_k_models of {type(callback).__name__} is not a dict; {_INSTEAD}")
    scores = {name: state.get(name) for name in ("best_model_score", "kth_value", "current_score")}
    for name, score in (*scores.items(), *(("best_k_models", value) for value in models.values())):
        is_tensor = isinstance(score, Tensor) and score.numel() == 1 and not score.is_complex()
        if not (score is None or is_tensor or isinstance(score, int | float)):
            raise ConfigError(f"ckpt_path: {name} of {type(callback).__name__} is not a number; {_INSTEAD}")
    own = {name: _own(callback, state, state.get(name), run) for name in _PATHS}
    kept = {path: score for given, score in models.items() if (path := _own(callback, state, given, run))}
    return {**state, **scores, **own, "best_k_models": kept, "dirpath": str(callback.dirpath)}


def _own(callback: ModelCheckpoint, state: dict[str, Any], given: Any, run: Path) -> str:
    """Return the path of a checkpoint that the state of a callback names, as a path in the folder of the callback.

    Return '' if this checkpoint does not exist.
    """
    if given is None or (isinstance(given, str) and not given):
        return ""
    folder, name = state.get("dirpath"), ""
    if isinstance(given, str) and isinstance(folder, str) and "\0" not in given + folder:
        name = os.path.relpath(os.path.normpath(given), os.path.normpath(folder))
    if name.startswith("..") or not name.endswith(callback.FILE_EXTENSION):
        raise ConfigError(
            f"ckpt_path: the checkpoint names {str(given)[:160]!r} as a file of {type(callback).__name__}, but this "
            f"is not a checkpoint in the folder of that callback; {_INSTEAD}"
        )
    path = Path(str(callback.dirpath)) / name
    belongs_to_run = name in (BEST, LAST) and path.parent == run and path.stem != callback.filename
    return str(path) if os.path.isfile(path) and not os.path.islink(path) and not belongs_to_run else ""


def _check_no_path(name: str, state: dict[str, Any], *folders: Path) -> None:
    """Raise an error if the state of a callback contains an absolute path, or a path with .., outside these folders."""
    for text in _texts(state):
        path = os.path.normpath(os.path.expanduser(text))
        allowed = any(Path(path).is_relative_to(folder.absolute()) for folder in folders)
        if (os.path.isabs(path) or path.startswith("..")) and not allowed:
            raise ConfigError(
                f"ckpt_path: the state of {name} in the checkpoint names the path {text[:160]!r}, which is outside the "
                f"folder of the run; {_INSTEAD}"
            )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from _texts(each)
