"""PreemptionHandler: a run that is told to end saves where it is, and says how it goes on."""

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

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What tells a run to end: a supervisor, SLURM before it takes the machine back (--signal=USR1@120), Ctrl-C."""


def _stopped(number: int, message: str) -> StoppedError:
    """Return the error to raise: a launcher kills rank 0 when another rank ends with a status other than 0."""
    return StoppedError(128 + number if rank_zero_only.rank == 0 else 0, message)


class PreemptionHandler(Checkpoint):  # which have their turn behind all other callbacks, when a step is wholly done
    """On SIGTERM, SIGUSR1 and Ctrl-C: finishes the step, writes last.ckpt, and ends the run on all processes at once.

    Where there is no going on from within an epoch (its validation has begun), the epoch is finished first; what is
    neither training nor validation (reading images, the test at the end) ends at once. A second signal ends everything
    at once. Works as a context too, around all of a command.

    Args:
        folder: the run's, to say how it goes on.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.told: int | None = None
        """The signal that has come."""
        self.agreed = False
        """Whether all processes know, since the last step."""
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
            if handler != self._hear and handler is not signal.SIG_IGN:  # nohup's, and jobs in the background
                self._before.setdefault(number, handler)
                signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self._trains or self.told is not None:
            hint = f"; --ckpt_path last with --run.id {self.folder.name} goes on" if self.folder else ""
            raise _stopped(number, f"stopped by {signal.Signals(number).name}{hint}")
        self.told = number
        if rank_zero_only.rank == 0:
            print(f"{signal.Signals(number).name}: stopping after this step; once more ends at once", flush=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._before:
            self._listen()  # Lightning has put its own in our place, which would end the run without a checkpoint
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
        where = f"in epoch {trainer.current_epoch}, after step {trainer.global_step - 1}"
        kept = last.path if last and last.path.exists() else None
        again = f"--ckpt_path last with --run.id {kept.parent.name} goes on from {kept}" if kept else "nothing is kept"
        raise _stopped(number, f"stopped by {signal.Signals(number).name} {where}; {again}")
