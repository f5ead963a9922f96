"""Checks that a run logs the values that its callbacks monitor."""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from kd_lightning.callbacks.ema import EMA
from kd_lightning.config.checks import validates
from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.evaluation import Evaluator

_TRAIN = "train/"


def check_monitors(callbacks: list[Callback], trainer: Any, method: LightningModule, data: ImageData) -> None:
    """Raise an error if a callback, such as EarlyStopping, monitors a value that the run does not log.

    Lightning would notice it at the end of the first epoch. The values that a class of another package logs, and the
    values that an evaluator logs during `fit`, are unknown. A run with such a class or evaluator is not checked. The
    callback `TrainMonitors` checks the names of training values.

    Args:
        callbacks: Callbacks of the run.
        trainer: Arguments of the trainer.
        method: Method of the run.
        data: Data of the run.

    Raises:
        ConfigError: in this case. The message names the callback and the nearest values.
    """
    classes = (type(one).__module__ for one in (method, *callbacks))
    during_fit = any(isinstance(one, Evaluator) and (one.every_n_epochs or one.data) for one in callbacks)
    if during_fit or not all(module.startswith(("kd_lightning.", "lightning.")) for module in classes):
        return
    names: set[str] = set()
    if data.has_validation and validates(trainer):
        if method.trains_classifier and data.labeled:
            names |= {"acc", "ce"}
        if hasattr(method, "teacher"):
            names |= {"agreement"} if method.trains_classifier else {"neighbors", "cosine"}
        if any(isinstance(callback, EMA) for callback in callbacks):
            names |= {"acc_ema"}
    _check((one for one in callbacks if not _monitor(one).startswith(_TRAIN)), {f"val/{name}" for name in names})


class TrainMonitors(Callback):
    """Raises an error after the first step if a callback monitors a training value that the run does not log.

    Before the first step, the names of these values are unknown.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        if trainer.fit_loop.epoch_loop.batch_idx == 0:
            _check((one for one in trainer.callbacks if _monitor(one).startswith(_TRAIN)), trainer.callback_metrics)


def _monitor(callback: Callback) -> str:
    """Return the name of the value that a callback monitors; '' if it monitors none."""
    return getattr(callback, "monitor", None) or ""


def _check(callbacks: Iterable[Callback], logged: Iterable[str]) -> None:
    for callback in callbacks:
        value, name = _monitor(callback), type(callback).__name__
        if value and value not in logged:
            none = "" if logged else ", because it has no validation"
            raise ConfigError(f"{name}.monitor: this run does not log {value!r}{none}{nearest(value, logged)}")
