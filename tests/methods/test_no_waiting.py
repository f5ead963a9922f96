"""Between two logged steps, no method reads a number from the device, because it would have to wait for a GPU."""

import csv
import inspect
import logging
import sys
from pathlib import Path

import pytest
import torch
from helpers.factories import EVERY_METHOD, digits, method, trainer
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kd_lightning.callbacks import EMA, NonFiniteGuard, Progress
from kd_lightning.distillation import StudentModule
from kd_lightning.methods import KD

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
LOGGED = 5
"""Steps between two that are logged."""


class Waits(TorchDispatchMode):
    """Records each operation whose result the host needs (`.item()`, `if tensor`, `nonzero`, a boolean index)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        booleans = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in WAITING or booleans:
            self.found.append(f"{name} by {_asking()}")
        return function(*args, **(kwargs or {}))


def _asking() -> str:
    """Return the name of the calling file: the innermost one that is neither part of torch nor this file."""
    frame = sys._getframe(2)
    while "/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return Path(frame.f_code.co_filename).name


class Watched(Callback):
    """Records the waits from the end of one training batch to the end of the next, by the number of the next batch."""

    def __init__(self, *, asks: bool = False) -> None:
        self.by_step: dict[int, list[str]] = {}
        self.mode, self.asks = None, asks

    def on_train_batch_end(self, trainer: object, pl_module: StudentModule, outputs: dict, batch: object, number: int):
        if self.asks:
            float(outputs["loss"])
        if self.mode:
            self.mode.__exit__(None, None, None)
            self.by_step[number] = self.mode.found
            self.mode = None
        if number < LOGGED - 2:
            self.mode = Waits()
            self.mode.__enter__()


def watched(kind: type[StudentModule], folder: Path, *callbacks: Callback, **settings: object) -> dict[int, list[str]]:
    found = Watched(**settings)
    shown = any(isinstance(callback, Progress) for callback in callbacks)
    logged = {"logger": CSVLogger(folder), "log_every_n_steps": LOGGED, "enable_progress_bar": shown}
    logged["limit_train_batches"] = LOGGED  # the last of them is logged
    run = trainer(folder, *callbacks, found, **logged)
    trained = method(kind)
    if hasattr(trained, "check_teacher"):
        trained.check_teacher = False
    run.fit(trained, datamodule=digits(batch_size=10, val_split=0))
    return found.by_step


@pytest.mark.parametrize("kind", EVERY_METHOD)
def test_no_step_between_two_logged_ones_waits(
    kind: type[StudentModule], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "lightning.pytorch")  # restored after the test
    assert watched(kind, tmp_path, Progress()) == {number: [] for number in range(1, LOGGED - 1)}


def test_those_that_ask_ask_the_host(tmp_path: Path) -> None:
    """NonFiniteGuard reads a value that was copied since the forward pass. EMA reads its number of updates."""
    found = watched(KD, tmp_path, EMA(), NonFiniteGuard())
    assert {name for names in found.values() for name in names} <= {
        "_local_scalar_dense by non_finite.py",
        f"_local_scalar_dense by {Path(inspect.getfile(WeightAveraging)).name}",
    }


def test_the_count_sees_what_asks(tmp_path: Path) -> None:
    found = watched(KD, tmp_path, asks=True)
    assert all(any("_local_scalar_dense" in name for name in names) for names in found.values())


def test_values_are_logged_where_they_are_read(tmp_path: Path) -> None:
    called: list[int] = []

    class Count(KD):
        def log_dict(self, values: dict[str, Tensor], *args: object, **kwargs: object) -> None:
            super().log_dict(values, *args, **kwargs)
            if "train/loss" in values:
                called.append(self.trainer.fit_loop.epoch_loop.batch_idx)

    run = trainer(tmp_path, logger=CSVLogger(tmp_path), log_every_n_steps=4)
    run.fit(method(Count, check_teacher=False), datamodule=digits(batch_size=10, val_split=0))
    assert called == [0, 3, 7, 9]  # the first step, every fourth step and the last step
    (path,) = tmp_path.rglob("metrics.csv")
    with path.open() as file:
        assert len([row for row in csv.DictReader(file) if row["train/loss"]]) == 2
