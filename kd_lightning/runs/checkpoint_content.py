"""Checks of the content of a checkpoint before a run uses it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kd_lightning import optim
from kd_lightning.distillation import StudentModule
from kd_lightning.distillation.unchanged import unchanged
from kd_lightning.errors import ConfigError
from kd_lightning.runs.place import states_per_weight

_WEIGHTS_ONLY = "to begin with these weights, give the file as model.student.checkpoint"


def check_content(content: Any, path: Path, *, fits: bool) -> None:
    """Raise an error if a file that torch has loaded is not the complete checkpoint of a run.

    Args:
        content: content of the file.
        path: path of the file, for the message.
        fits: whether `fit` resumes from the checkpoint, which also needs the state of the training.

    Raises:
        ConfigError: in this case. The message names the missing or wrong entry.
    """
    if not (isinstance(content, Mapping) and isinstance(content.get("pytorch-lightning_version"), str)):
        raise ConfigError(f"ckpt_path: {path} contains only weights and not the state of a run; {_WEIGHTS_ONLY}")
    wanted: dict[str, type] = {"state_dict": Mapping, "epoch": int, "global_step": int}
    if fits:
        wanted |= {"loops": Mapping, "callbacks": Mapping, "optimizer_states": list, "lr_schedulers": list}
    wanted |= {name: Mapping for name in ("network", "last_values") if name in content}
    for name, kind in wanted.items():
        value = content.get(name)
        if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or value < 0)):
            raise _odd(path, name, "is missing" if name not in content else "has another form")
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content["state_dict"].items()):
        raise _odd(path, "state_dict", "contains values that are not tensors")


def check_resumable(method: StudentModule, content: dict[str, Any], path: Path) -> None:
    """Raise an error if `fit` cannot resume from a checkpoint; nothing is changed.

    Args:
        method: method of the run, with its trainer.
        content: checkpoint for which `check_content` raises no error.
        path: path of the checkpoint, for the message.

    Raises:
        ConfigError: if the tensors do not fit the method, or if the states of the training loop, of the callbacks, of
            the optimizer or of the schedule have another form than those of this run.
    """
    with unchanged(method):
        method.on_load_checkpoint({**content, "state_dict": dict(content["state_dict"])})
    trainer = method.trainer
    _check_form(trainer.fit_loop.state_dict(), content["loops"].get("fit_loop"), "loops.fit_loop", path)
    if wrong := next((name for name, state in content["callbacks"].items() if not isinstance(state, Mapping)), None):
        raise _odd(path, f"callbacks.{wrong}", "has another form")
    if len(content["lr_schedulers"]) != 1 or not isinstance(content["lr_schedulers"][0], Mapping):
        raise _odd(path, "lr_schedulers", "has another form")
    _check_optimizer(method, content, path)
    place = content.get(type(trainer.datamodule).__qualname__, {})
    _check_form({"epoch": 0, "batches": 0} if place else {}, place, type(trainer.datamodule).__qualname__, path)


def _check_form(expected: Any, given: Any, name: str, path: Path) -> None:
    """Raise an error if nested values lack an entry, or have another type, except for states of loaders."""
    if isinstance(expected, Mapping):
        if not isinstance(given, Mapping):
            raise _odd(path, name, "is missing" if given is None else "has another form")
        for key, value in expected.items():
            _check_form(value, given.get(key), f"{name}.{key}", path)
    elif expected is not None and not isinstance(given, type(expected)):
        raise _odd(path, name, "is missing" if given is None else "has another form")


def _check_optimizer(method: StudentModule, content: dict[str, Any], path: Path) -> None:
    parameters = optim.groups(method.parameters(), method.classifier_parameters, method.head_lr_scale)
    groups = method.optimizer(parameters).param_groups
    states = content["optimizer_states"]
    saved = states[0] if len(states) == 1 and isinstance(states[0], Mapping) else {}
    given, state = saved.get("param_groups"), saved.get("state")
    if not (isinstance(given, list) and isinstance(state, Mapping) and all(isinstance(g, Mapping) for g in given)):
        raise _odd(path, "optimizer_states", "has another form")
    if [len(group.get("params", [])) for group in given] != [len(group["params"]) for group in groups]:
        raise _odd(path, "optimizer_states.param_groups", "has other groups of parameters than this run")
    if missing := [name for name in groups[0] if name not in given[0]]:
        raise _odd(path, f"optimizer_states.param_groups.{missing[0]}", "is missing")
    skipped = content["callbacks"].get("NonFiniteGuard", {}).get("skipped", 0)  # steps that changed nothing
    skipped = skipped if isinstance(skipped, int) else 0
    if content["global_step"] > skipped and not state and states_per_weight(method):
        raise _odd(path, "optimizer_states.state", "is empty")


def _odd(path: Path, name: str, problem: str) -> ConfigError:
    return ConfigError(
        f"ckpt_path: {path} is not a complete checkpoint of a run: its entry {name} {problem}; give another "
        f"checkpoint. If the file contains a trained student, {_WEIGHTS_ONLY}"
    )
