"""Progress: the losses, the accuracies, images per second, and the remaining time."""

import math
import sys
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, Timer
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from kd_lightning.batch import Batch
from kd_lightning.redaction import printable


class Progress(RichProgressBar):
    """Shows Lightning's rich progress bar for the current epoch, and prints one line for each completed epoch.

    If the output is not a terminal, there is no bar.

    Args:
        refresh_rate: Number of batches between two updates of the bar.
    """

    def __init__(self, refresh_rate: int = 5) -> None:
        super().__init__(refresh_rate=refresh_rate, theme=RichProgressBarTheme(metrics_format=".4g"))
        self._images, self._started, self._fit_started, self._epochs_before = 0, 0.0, 0.0, 0
        # with Lightning's `prog_bar=True`, every step would wait for these values (Lightning's issue 21232)
        self._terms: dict[str, float] = {}
        self._due = False
        self._before: dict[str, Any] = {}
        if not sys.stdout.isatty():
            self.disable()

    def enable(self) -> None:
        """Show the bar if the output is a terminal. Lightning calls this function after a learning rate search."""
        if sys.stdout.isatty():
            super().enable()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fit_started, self._epochs_before = time.monotonic(), self._done(trainer)
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._images, self._started, self._before = 0, time.monotonic(), {**trainer.callback_metrics}
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images += len(batch.images) * trainer.world_size
        self._due = (batch_idx + 1) % max(self.refresh_rate, 1) == 0 or trainer.is_last_batch
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the values after the bar: the training terms without `train/`, the speed and the remaining time."""
        if trainer.training and self._due:
            terms = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
            self._terms = {name[6:]: float(terms[name]) for name in terms.keys() - {"train/loss", "train/lr"}}
        shown = {**dict(sorted(self._terms.items())), **super().get_metrics(trainer, pl_module)}
        shown.pop("v_num", None)
        if trainer.training and self._images:
            shown["images/s"] = round(self._images / (time.monotonic() - self._started))
            shown["left"] = str(timedelta(seconds=round(self._left(trainer))))
        return shown

    def _get_train_description(self, current_epoch: int) -> str:
        """Return the text before the bar. It counts epochs from 1, as the printed lines do; Lightning counts from 0."""
        return f"epoch {current_epoch + 1}{_of(self.trainer)}{_stage(self.trainer)}".ljust(
            len(self.validation_description)
        )

    @staticmethod
    def _done(trainer: Trainer) -> float:
        """Return the number of epochs that are done."""
        in_epoch = trainer.fit_loop.epoch_loop.batch_progress.current.completed / max(trainer.num_training_batches, 1)
        return trainer.current_epoch + min(in_epoch, 1.0)

    def _left(self, trainer: Trainer) -> float:
        """Return the estimated seconds until the end of the run, at the mean speed since `fit` began.

        The run ends at the first of its limits: max_epochs, max_steps or max_time.
        """
        done = self._done(trainer)
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        limits = [trainer.max_epochs - done] if (trainer.max_epochs or -1) > 0 else []
        if trainer.max_steps >= 0:
            limits.append((trainer.max_steps - trainer.global_step) / max(steps_per_epoch, 1))
        pace = (time.monotonic() - self._fit_started) / max(done - self._epochs_before, 1e-9)
        seconds = [pace * epochs for epochs in limits]
        timers = [callback.time_remaining() for callback in trainer.callbacks if isinstance(callback, Timer)]
        return max(min([*seconds, *(each for each in timers if each is not None)], default=0.0), 0.0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_global_zero:
            values = trainer.callback_metrics.items()
            fresh = {name: value for name, value in values if value is not self._before.get(name)}
            terms = [f"{name} {value:.4g}" for name, value in fresh.items()]
            took = time.monotonic() - self._started
            left = timedelta(seconds=round(self._left(trainer)))
            line = f"epoch {trainer.current_epoch + 1}{_of(trainer)}{_stage(trainer)}: {', '.join(terms)}; "
            line += f"{took:.1f} s, {self._images / took:.0f} images/s, {left} left"
            if self.progress is not None and self.is_enabled:
                self.progress.console.print(line, highlight=False)
            else:
                print(printable(line), flush=True)


def _stage(trainer: Trainer) -> str:
    """Return the names of the stages that the epoch belongs to, for a line of progress; '' if there are none."""
    names = getattr(trainer.lightning_module, "stage_names", "")
    return f" ({names})" if names else ""


def _of(trainer: Trainer) -> str:
    """Return the limit of the run's length, for a line of progress."""
    if trainer.max_epochs not in (None, -1):
        return f"/{trainer.max_epochs}"
    return f", step {trainer.global_step:,}/{trainer.max_steps:,}" if trainer.max_steps != -1 else ""
