"""Runs of `fit` in separate processes that are killed or signalled to stop at a given moment of an epoch."""

import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from kd_lightning.cli import main
from kd_lightning.cli.app import CLI
from kd_lightning.runs import checkpoint_io

STEPS = 4
"""Steps of an epoch."""
PATIENCE = 400.0
"""Seconds that a run may take."""
MOMENTS = ("first step", "middle step", "last step", "validating", "saving the last", "saving the best", "epoch's end")


class End(Callback):
    """Sends a signal to its own process at a given moment of an epoch.

    Args:
        moment: One of MOMENTS. `<step> twice` sends two signals; `test` sends the signal during the test.
        number: Number of the signal.
        epoch: Number of the epoch.
    """

    def __init__(self, moment: str, number: int = signal.SIGKILL, epoch: int = 1) -> None:
        self.moment, self.number, self.epoch, self.sent = moment, number, epoch, False

    def _at(self, trainer: Trainer, moment: str) -> None:
        if trainer.current_epoch == self.epoch and moment == self.moment.removesuffix(" twice") and not self.sent:
            self.sent = True
            for _ in range(2 if self.moment.endswith(" twice") else 1):
                os.kill(os.getpid(), self.number)

    def on_test_batch_start(self, *args: Any) -> None:
        if self.moment == "test":
            os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        names = {0: "first step", STEPS // 2: "middle step", STEPS - 1: "last step"}
        self._at(trainer, names.get(batch_idx, ""))

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._at(trainer, "validating")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._at(trainer, "epoch's end")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        moment = self.moment.removesuffix(" twice")
        name = {"saving the last": ".last.ckpt", "saving the best": ".best.ckpt"}.get(moment)
        if name is None or stage != "fit":
            return
        save = torch.save

        def half(content: Any, path: Path) -> None:
            save(content, path)
            if path.name.startswith(name) and trainer.current_epoch == self.epoch:
                if self.number == signal.SIGKILL:
                    os.truncate(path, path.stat().st_size // 2)
                self._at(trainer, moment)

        checkpoint_io.torch = type("Torch", (), {"save": staticmethod(half), "load": staticmethod(torch.load)})


def run(work: Callable[[], Any], log: Path) -> int:
    """Call `work` in a forked process and return its exit status, or minus the number of the signal that killed it."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return _ended(process, log)
    status = 99
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
            logging.captureWarnings(True)  # pytest would capture the warnings
            logging.getLogger("py.warnings").addHandler(logging.StreamHandler(sys.stderr))
            torch.set_num_threads(1)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore SIGINT
            try:
                work()
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(status)


def _ended(process: int, log: Path) -> int:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise AssertionError(f"it hangs: {log.read_text()}")


def fit(folder: Path, args: list[str], *, name: str, end: tuple[Any, ...] | None = None, epochs: int = 3) -> int:
    """Start or resume a `fit` in `<folder>/runs/kd_lightning/run/<name>/` and return its exit status."""
    fixed = [f"--run.output_dir={folder / 'runs'}", "--run.name=run", f"--run.id={name}"]
    fixed += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", f"--trainer.max_epochs={epochs}"]
    fixed += ["--trainer.log_every_n_steps=1", "--ckpt_path=last"]

    log = folder / f"{name}.log"
    if "--run.wandb=offline" in args:  # W&B's service does not work after a fork
        plain = end and (end[0], *map(int, end[1:]))
        code = f"from helpers import processes; processes.begin({['fit', *args, *fixed]!r}, {plain!r})"
        with log.open("a") as file:
            known = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}  # the parent's service
            known["PYTHONPATH"] = os.pathsep.join(sys.path)
            return subprocess.run(
                [sys.executable, "-c", code], stdout=file, stderr=file, env=known, check=False, timeout=PATIENCE
            ).returncode
    return run(lambda: begin(["fit", "--run.wandb=off", *args, *fixed], end), log)


def begin(args: list[str], end: tuple[Any, ...] | None) -> None:
    """Call `main` with these arguments, and add an End callback."""
    build = CLI.instantiate_trainer

    def with_end(self: CLI, **kwargs: Any) -> Trainer:
        trainer = build(self, **kwargs)
        trainer.callbacks.insert(0, End(*end))
        return trainer

    if end:
        CLI.instantiate_trainer = with_end
    main(args)


def place(folder: Path, name: str) -> Path:
    """Return the folder of a run that `fit` started."""
    return folder / "runs" / "kd_lightning" / "run" / name
