"""Progress: each loss, the accuracies, images a second, and the time that is left."""

import sys
import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme

from kd_lightning.batch import Batch


class Progress(RichProgressBar):
    """Lightning's rich progress bar with images/s and the run's time left; one line an epoch where output is a file.

    Args:
        refresh_rate: batches between two updates.
    """

    def __init__(self, refresh_rate: int = 5) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=True, theme=RichProgressBarTheme(metrics_format=".4g"))
        self._images, self._started, self._fit_started = 0, 0.0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._fit_started, self._epochs_before = time.monotonic(), trainer.current_epoch
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._images, self._started = 0, time.monotonic()
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images += len(batch.images) * trainer.world_size
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if trainer.training and self._images:
            metrics["images/s"] = round(self._images / (time.monotonic() - self._started))
            metrics["left"] = str(timedelta(seconds=round(self._left(trainer))))
        return metrics

    def _left(self, trainer: Trainer) -> float:
        steps = max(float(trainer.num_training_batches), 1.0)
        in_epoch = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        done = trainer.current_epoch - self._epochs_before + min(in_epoch / steps, 1.0)
        to_do = (trainer.max_epochs or 1) - trainer.current_epoch - min(in_epoch / steps, 1.0)
        return max((time.monotonic() - self._fit_started) * to_do / max(done, 1e-9), 0.0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if sys.stdout.isatty() or not trainer.is_global_zero:
            return
        shown = {**self.get_metrics(trainer, pl_module), **trainer.callback_metrics}
        terms = [f"{name} {float(value):.4g}" for name, value in shown.items() if name not in ("left", "images/s")]
        took = time.monotonic() - self._started
        pace = f"{took:.1f} s, {self._images / took:.0f} images/s"
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {', '.join(terms)}; {pace}", flush=True)
