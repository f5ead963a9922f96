"""Checks of the content of a checkpoint before a run uses it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BaseFinetuning, Callback, LearningRateFinder, StochasticWeightAveraging
from lightning.pytorch.plugins import Precision
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import SWALR

from kd_lightning import optim
from kd_lightning.distillation import StudentModule
from kd_lightning.distillation.unchanged import unchanged
from kd_lightning.errors import ConfigError
from kd_lightning.optim import counts_steps
from kd_lightning.runs.optimizer_state import check_optimizer
from kd_lightning.runs.optimizer_steps import Steps
from kd_lightning.runs.place import states_per_weight
from kd_lightning.runs.schedule_state import check_rates, check_schedule, rates_after, settings_in_groups
from kd_lightning.runs.state_form import WEIGHTS_ONLY, check_form, differs, is_number, odd, same

_VERSION = re.compile(r"[2-9]\d*(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+\w+(\.\w+)*)?", re.ASCII)

_SCALER = "native_amp_scaling_state"
"""Entry with the state of the gradient scaler in checkpoints of earlier versions of Lightning."""


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
        raise ConfigError(f"ckpt_path: {path} contains only weights and not the state of a run; {WEIGHTS_ONLY}")
    wanted: dict[str, type] = {"state_dict": Mapping, "epoch": int, "global_step": int}
    if fits:
        wanted |= {"loops": Mapping, "callbacks": Mapping, "optimizer_states": list, "lr_schedulers": list}
    wanted |= {name: Mapping for name in ("network", "last_values") if name in content}
    for name, kind in wanted.items():
        value = content.get(name)
        if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or value < 0)):
            raise odd(path, name, "is missing" if name not in content else "has another form")
    if not _VERSION.fullmatch(content["pytorch-lightning_version"]):
        raise odd(path, "pytorch-lightning_version", "is no version of Lightning from 2.0 on")
    if not all(isinstance(name, str) and is_number(value) for name, value in content.get("last_values", {}).items()):
        raise odd(path, "last_values", "has another form")
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content["state_dict"].items()):
        raise odd(path, "state_dict", "contains values that are not tensors")


def check_resumable(method: StudentModule, content: dict[str, Any], path: Path) -> None:
    """Raise an error if `fit` cannot resume from a checkpoint; nothing is changed.

    The states of callbacks are checked by `kd_lightning.callbacks.checkpoint_state`.

    Args:
        method: method of the run, with its trainer.
        content: checkpoint for which `check_content` raises no error.
        path: path of the checkpoint, for the message.

    Raises:
        ConfigError: if the tensors do not fit the method, if the states of the training loop, of the precision, of the
            optimizer or of the schedule have another form than those of this run, or if the optimizer or the schedule
            has other settings than in the config.
    """
    with unchanged(method):
        method.on_load_checkpoint({**content, "state_dict": dict(content["state_dict"])})
    trainer = method.trainer
    own = method.deployed.facts()
    for name in ("name", "mean", "std", "size"):
        if name in content.get("network", {}) and not same(own[name], content["network"][name]):
            raise differs(path, f"network.{name}", content["network"][name], own[name])
    check_form(trainer.fit_loop.state_dict(), content["loops"].get("fit_loop"), "loops.fit_loop", path)
    _check_progress(trainer, content, path)
    if len(content["lr_schedulers"]) != 1:
        raise odd(path, "lr_schedulers", "has another form")
    if len(content["optimizer_states"]) != 1:
        raise odd(path, "optimizer_states", "has another form")
    _check_optimizer_and_schedule(method, content, path)
    _check_precision(trainer.precision_plugin, content, path)
    place = content.get(type(trainer.datamodule).__qualname__, {})
    check_form({"epoch": 0, "batches": 0} if place else {}, place, type(trainer.datamodule).__qualname__, path)


def _check_progress(trainer: Trainer, content: dict[str, Any], path: Path) -> None:
    """Raise an error if the loop disagrees with the entry global_step, or has passed the end of this run."""
    loop = content["loops"]["fit_loop"]
    counted = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"]
    if counted and counted != content["global_step"]:  # a method that steps its optimizer itself does not count here
        raise odd(path, "global_step", f"is {content['global_step']}, but the loop has done {counted} steps")
    epochs = loop["epoch_progress"]["current"]["processed"]
    if epochs - content["epoch"] not in (0, 1):
        problem = f"is {epochs}, but the entry epoch is {content['epoch']}"
        raise odd(path, "loops.fit_loop.epoch_progress.current.processed", problem)
    done = {"max_epochs": epochs, "max_steps": content["global_step"]}
    for name, count in done.items():
        most = getattr(trainer, name)
        if most is not None and 0 <= most < count:
            raise ConfigError(
                f"trainer.{name}: {most} is given, but {path} was saved after {count} {name.removeprefix('max_')}; "
                f"set it to at least {count}, or load only the student (model.student.checkpoint)"
            )


def _check_optimizer_and_schedule(method: StudentModule, content: dict[str, Any], path: Path) -> None:
    callbacks = method.trainer.callbacks
    compare = not any(_may_change_settings(callback) for callback in callbacks)
    rates = not (method.lr_batch_size or any(isinstance(each, LearningRateFinder) for each in callbacks))
    frees = any(isinstance(each, BaseFinetuning) for each in callbacks)
    fixed = compare and rates and not frees
    built: list[LRScheduler] = []
    given = content["lr_schedulers"][0]
    expected: list[float] = []

    def finish(optimizer: Optimizer) -> set[str]:
        optim.scale_rates(optimizer, 1)
        if fixed:
            expected.extend(rates_after(method.lr_scheduler, optimizer, given))
        built.append(method.lr_scheduler(optimizer))
        return settings_in_groups(built[0], rates=rates)

    trained = optim.groups(method.parameters(), method.classifier_parameters, method.head_lr_scale)
    saved = content["optimizer_states"][0]
    skipped = content["callbacks"].get("NonFiniteGuard", {}).get("skipped", 0)  # steps that changed nothing
    known = compare and not frees and method.automatic_optimization
    steps = _steps(method, content, skipped) if known else None
    check_optimizer(method.optimizer, finish, trained, saved, path, compare=compare, steps=steps)
    if content["global_step"] > skipped and not saved["state"] and states_per_weight(method):
        raise odd(path, "optimizer_states.state", "is empty")
    if _check_averaging_schedule(method.trainer, built[0].optimizer, content, path):
        return
    updates = content["global_step"] if counts_steps(built[0]) else content["epoch"] + 1
    check_schedule(built[0], given, path, updates=updates, compare=compare, rates=rates)
    if fixed:
        check_rates(built[0], given, saved["param_groups"], expected, path)


def _steps(method: StudentModule, content: dict[str, Any], skipped: int) -> Steps:
    """Return the numbers of steps that the optimizer's state in a checkpoint may contain.

    A method of another package may train some parameters in some steps only. A gradient scaler (16-mixed) skips steps
    without a record. After it was used in an earlier part of the run, at least half of the steps must have been done.
    """
    done = content["global_step"]
    scaled = any(content.get(name) for name in ("MixedPrecision", "FSDPPrecision", _SCALER))
    own = [each for each in method.modules() if isinstance(each, StudentModule)]
    return Steps(
        least=0 if scaled else (done - skipped + 1) // 2,
        most=done,
        alike=all(type(each).__module__.startswith("kd_lightning.") and not each.has_own_stages for each in own),
        later=method.backbone_parameters if method.probe_epochs else [],
    )


def _check_averaging_schedule(trainer: Trainer, optimizer: Optimizer, content: dict[str, Any], path: Path) -> bool:
    """Check the schedule by which StochasticWeightAveraging has replaced that of the config.

    Return False if it has replaced none. The callback reads its own state, and Lightning ignores the entry
    lr_schedulers of such a checkpoint.
    """
    for callback in trainer.callbacks:
        state = content["callbacks"].get(callback.state_key, {})
        if isinstance(callback, StochasticWeightAveraging) and state.get("scheduler_state") is not None:
            rate = callback._swa_lrs if isinstance(callback._swa_lrs, list) else float(callback._swa_lrs)
            schedule = SWALR(optimizer, rate, callback._annealing_epochs, callback._annealing_strategy)
            name = f"callbacks.{callback.state_key}.scheduler_state"
            updates = max(trainer.max_epochs or 0, 0) + content["global_step"] + 4  # it begins to count at max_epochs
            check_schedule(
                schedule, state["scheduler_state"], path, updates=updates, compare=False, rates=False, name=name
            )
            return True
    return False


def _may_change_settings(callback: Callback) -> bool:
    """Return whether a callback may change settings of the optimizer, or replace the schedule."""
    known = type(callback).__module__.startswith(("kd_lightning.", "lightning."))
    return not known or isinstance(callback, StochasticWeightAveraging)


def _check_precision(plugin: Precision, content: dict[str, Any], path: Path) -> None:
    """Raise an error if the state of the gradient scaler has another form, or other settings than this run's."""
    for name in (type(plugin).__qualname__, _SCALER):
        state = content.get(name)
        if not state or not (own := plugin.state_dict()):
            continue
        check_form(own, state, name, path)
        for key in ("growth_factor", "backoff_factor", "growth_interval"):
            if key in own and own[key] != state[key]:
                raise differs(path, f"{name}.{key}", state[key], own[key])
