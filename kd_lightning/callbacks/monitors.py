"""Check, before the first step, that the run logs the values that callbacks and schedules monitor."""

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn import Parameter

from kd_lightning.callbacks.ema import EMA
from kd_lightning.callbacks.further_checkpoints import filename_fields
from kd_lightning.callbacks.non_finite import NonFiniteGuard
from kd_lightning.callbacks.teacher_agreement import TeacherAgreement
from kd_lightning.distillation.part_hooks import HOOKS
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.evaluation import Evaluator

_STEPS = {"training_step", "validation_step", "evaluate", *HOOKS}
"""Functions in which a method may log further values."""

_HIGHER = {"train/acc", "val/acc", "val/acc_ema", "val/agreement", "val/cosine"}


def check_monitors(method: LightningModule, data: Any, terms: set[str]) -> None:
    """Raise an error if a callback or a schedule monitors a value that the run does not log.

    Nothing is checked if a callback or a method of another package may log further values.

    Args:
        method: method of the run.
        data: data of the run.
        terms: names of the values that a training step logs.

    Raises:
        ConfigError: for the first such value. The message contains the nearest names.
    """
    trainer = method.trainer
    if _logs_more(method, trainer):
        return
    skips = any(isinstance(c, NonFiniteGuard) and c.nonfinite == "skip" for c in trainer.callbacks)
    known = terms | {*_validation_names(method, trainer, data)} | ({"train/skipped"} if skips else set())
    for field, name, mode in _monitored(method, trainer):
        by_evaluator = any(isinstance(c, Evaluator) and (c.every_n_epochs or c.data) for c in trainer.callbacks)
        if name not in known and not (by_evaluator and name.startswith("val/")):
            raise ConfigError(
                f"{field}: this run logs no value named {name!r}, so that it cannot be monitored{nearest(name, known)}"
            )
        better = "max" if _rises(name) else "min" if name in {*(terms - {"train/lr"}), "val/ce"} else mode
        if mode not in (None, better):
            raise ConfigError(
                f"{field.removesuffix('monitor')}mode: {mode} is given, but {name} is better if it is "
                f"{'higher' if better == 'max' else 'lower'}; set mode to {better}"
            )
    for callback in trainer.callbacks:
        for name in filename_fields(callback):
            if name not in known | {"epoch", "step"} and not (name.startswith("val/") and name.count("/") > 1):
                raise ConfigError(
                    f"trainer.callbacks: {type(callback).__name__}.filename: this run logs no value named "
                    f"{name!r}{nearest(name, known | {'epoch', 'step'})}"
                )


def _rises(name: str) -> bool:
    """Return whether a higher value is better: accuracies, and the agreement with the teacher."""
    return name in _HIGHER or name.startswith("val/neighbors")


def _monitored(method: LightningModule, trainer: Trainer) -> Iterator[tuple[str, str, str | None]]:
    """Yield the field, the name of the value, and whether its minimum or its maximum counts (None: neither)."""
    for callback in trainer.callbacks:
        name = getattr(callback, "monitor", None)
        if isinstance(name, str):
            ranks = getattr(callback, "save_top_k", 1) not in (-1, 0)
            mode = getattr(callback, "mode", None) if ranks else None
            yield f"trainer.callbacks: {type(callback).__name__}.monitor", name, mode
    schedule = method.lr_scheduler(method.optimizer([Parameter(p.detach()) for p in method.parameters()][:1]))
    if isinstance(name := getattr(schedule, "monitor", None), str):
        yield "model.lr_scheduler.monitor", name, getattr(schedule, "mode", None)


def _validation_names(method: LightningModule, trainer: Trainer, data: Any) -> Iterator[str]:
    if trainer.limit_val_batches == 0 or "val" not in data.datasets:
        return
    labeled = data.labeled and method.trains_classifier
    if labeled:
        yield from ("val/acc", "val/ce")
    for callback in trainer.callbacks:
        if isinstance(callback, TeacherAgreement):
            yield from (f"val/{name}" for name in callback.names_of(method))
        elif isinstance(callback, EMA) and labeled:
            yield "val/acc_ema"


def _logs_more(method: LightningModule, trainer: Trainer) -> bool:
    """Return whether a callback or a method of another package may log values."""
    if any(not type(c).__module__.startswith(("kd_lightning.", "lightning.")) for c in trainer.callbacks):
        return True
    parts = getattr(method, "parts", nn.ModuleDict()).values()
    return any(
        name in vars(kind)
        for each in (method, *parts)
        for kind in type(each).__mro__
        for name in _STEPS
        if not kind.__module__.startswith(("kd_lightning.", "lightning.", "torch."))
    )
