"""Check the states of callbacks in a checkpoint: no state may name a path outside the folder of the run."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from kd_lightning.errors import ConfigError

BEST, LAST = "best.ckpt", "last.ckpt"
_PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")
_INSTEAD = "load only the student instead (model.student.checkpoint)"


def restrict_paths(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Replace the paths in the states of a checkpoint's callbacks by paths in the callbacks' own folders.

    Lightning deletes the files and folders that the state of a ModelCheckpoint names. Therefore, the folder in a state
    is replaced by the folder of the callback. Each path must then be a checkpoint in this folder.

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
            _check_no_path(name, states[key], Path(trainer.default_root_dir), Path(trainer.ckpt_path or ".").parent)


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
