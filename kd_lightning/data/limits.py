"""Check, before a run begins, that the trainer's limits of batches leave at least one batch."""

import math
from typing import Any

from kd_lightning.errors import ConfigError
from kd_lightning.words import counted

_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


def check_limits(data: Any, trainer: Any, stage: str) -> None:
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
        count = data.training_batches() if name == "train" else _batches(data, split)
        if 0 < limit * count < 1:
            raise ConfigError(
                f"trainer.limit_{name}_batches: {limit} of {counted(count, 'batch', 'batches')} is less than one "
                f"batch; give at least {math.ceil(1e4 / count) / 1e4}, or a whole number of batches"
            )
    if stage == "fit":
        _check_interval(data, trainer)


def _check_interval(data: Any, trainer: Any) -> None:
    interval = getattr(trainer, "val_check_interval", None)  # Lightning does not set it for an interval of time
    steps = data.training_batches(trainer.limit_train_batches)
    if type(interval) is int and trainer.check_val_every_n_epoch and "val" in data.datasets and interval > steps:
        raise ConfigError(
            f"trainer.val_check_interval: {interval} is more than the {counted(steps, 'step')} of an epoch"
        )


def _batches(data: Any, split: str) -> int:
    return math.ceil(math.ceil(len(data.datasets[split]) / data.world) / data.eval_batch_size)
