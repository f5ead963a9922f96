"""PreemptionHandler: a run that receives a signal saves a checkpoint, and reports how to resume."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only

from kd_lightning import distributed
from kd_lightning.callbacks.checkpoints import LastCheckpoint, within_epoch
from kd_lightning.errors import StoppedError
from kd_lightning.words import counted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Signals that stop a run. Supervisors send SIGTERM, SLURM sends SIGUSR1 (--signal=USR1@120), Ctrl-C sends SIGINT."""


def _stopped(number: int, message: str) -> StoppedError:
    """Return the error to raise. Ranks other than 0 end with status 0, so that a launcher does not kill rank 0."""
    return StoppedError(128 + number if rank_zero_only.rank == 0 else 0, message)


class PreemptionHandler(Checkpoint):  # Lightning calls Checkpoint callbacks last, when a step is complete
    """On SIGTERM, SIGUSR1 or Ctrl-C, saves last.ckpt after the current step, and ends the run on all processes.

    A run cannot resume after a step that is followed by a validation or by the end of the epoch. After such a step, the
    run ends later: after the next step from which it can resume, or at the end of the epoch. Outside training and
    validation, the run ends immediately, for example while images are read or during the final test. A second signal
    always ends the run immediately. Used as a context manager, the object handles the signals of a complete command.

    Args:
        folder: Folder of the run, which the message on how to resume names.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.told: int | None = None
        """Number of the signal that this process has received."""
        self.agreed = False
        """Whether all processes know, since the last step, that one of them has received a signal."""
        self._trains = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "PreemptionHandler":
        self._listen()
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler != self._hear and handler is not signal.SIG_IGN:  # ignored signals stay ignored (nohup)
                self._before.setdefault(number, handler)
                signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self._trains or self.told is not None:
            hint = f"; --ckpt_path last with --run.id {self.folder.name} resumes the run" if self.folder else ""
            raise _stopped(number, f"stopped by {signal.Signals(number).name}{hint}")
        self.told = number
        if rank_zero_only.rank == 0:
            name = signal.Signals(number).name
            print(f"{name}: the run stops after this step; a second signal ends it immediately", flush=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._before:
            self._listen()  # Lightning has replaced the handler by its own, which ends the run without a checkpoint
        self._trains = True

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._before:
            self._listen()

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self.agreed and within_epoch(trainer) and not trainer.fit_loop._should_accumulate():
            last = LastCheckpoint.of(trainer)
            if last:
                last.save(trainer)
            self._end(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_between(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trains = False
        self._end_between(trainer)

    def _end_between(self, trainer: Trainer) -> None:
        told = torch.tensor(self.told is not None, device=trainer.strategy.root_device)
        if distributed.any_rank(told):
            self._end(trainer)

    def _end(self, trainer: Trainer) -> None:
        last, number = LastCheckpoint.of(trainer), max(distributed.everyones(self.told or 0))
        epoch = f"in epoch {trainer.current_epoch + 1}, " if self._trains else ""  # else all epochs are complete
        where = f"{epoch}after {counted(trainer.global_step, 'step')}"
        saved = last.path if last and last.path.exists() else None
        resume_hint = (
            f"--ckpt_path last with --run.id {saved.parent.name} resumes from {saved}"
            if saved
            else "no checkpoint is saved"
        )
        raise _stopped(number, f"stopped by {signal.Signals(number).name} {where}; {resume_hint}")
