"""Check, before a run begins, that the trainer's limits of batches leave at least one batch."""

import math
from typing import Any

from kd_lightning.data.loader_mixin import LoaderMixin
from kd_lightning.errors import ConfigError

_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


def check_limits(data: LoaderMixin, trainer: Any, stage: str) -> None:
    """Raise an error if a limit of batches, or the interval between validations, does not fit the data.

    Args:
        data: Data whose images are loaded.
        trainer: Trainer of the run.
        stage: Stage of Lightning: `fit`, `validate`, `test` or `predict`.

    Raises:
        ConfigError: if a share of the batches is less than one batch, or if `val_check_interval` is more than the steps
            of an epoch.
    """
    splits = {name: name for name in _SPLITS.get(stage, ())} or {"predict": data.predict_split}
    if stage == "fit" and data.tested and data.labeled:
        splits["test"] = "test"
    for name, split in splits.items():
        limit = getattr(trainer, f"limit_{name}_batches", 1.0)
        if split not in data.datasets or not isinstance(limit, float):
            continue
        count = _steps(data) if name == "train" else _batches(data, split)
        if 0 < limit * count < 1:
            raise ConfigError(
                f"trainer.limit_{name}_batches: {limit} of {count} batches is less than one batch; give at least "
                f"{math.ceil(1e4 / count) / 1e4}, or a whole number of batches"
            )
    if stage == "fit":
        _check_interval(data, trainer)


def _check_interval(data: LoaderMixin, trainer: Any) -> None:
    interval = getattr(trainer, "val_check_interval", None)  # Lightning does not set it for an interval of time
    steps = _steps(data)
    if isinstance(trainer.limit_train_batches, int):
        steps = min(steps, trainer.limit_train_batches)
    if type(interval) is int and trainer.check_val_every_n_epoch and "val" in data.datasets and interval > steps:
        raise ConfigError(f"trainer.val_check_interval: {interval} is more than the {steps} steps of an epoch")


def _steps(data: LoaderMixin) -> int:
    """Return the number of batches of an epoch on each device."""
    return len(data.datasets["train"]) * data.group // (data.batch_size * data.world)


def _batches(data: LoaderMixin, split: str) -> int:
    return math.ceil(math.ceil(len(data.datasets[split]) / data.world) / data.eval_batch_size)
