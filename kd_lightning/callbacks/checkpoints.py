"""The checkpoints of a run: `last.ckpt`, from which the run resumes, and `best.ckpt`."""

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from kd_lightning.loggers import ResumableCSVLogger


class LastCheckpoint(Checkpoint):
    """Saves `last.ckpt` at the end of each epoch, every `every_n_steps` steps, and after the step at which a run stops.

    Lightning's ModelCheckpoint is not used here. If max_steps or max_time ends a run within an epoch, ModelCheckpoint
    saves the epoch as complete. A run that resumes from this checkpoint would skip the rest of the epoch.

    Args:
        folder: Folder of the run.
        every_n_steps: Number of optimizer steps between two saves within an epoch. With None, `last.ckpt` is saved only
            at the end of each epoch.
    """

    def __init__(self, folder: Path, every_n_steps: int | None = None) -> None:
        self.path, self.every_n_steps = folder / "last.ckpt", every_n_steps

    @staticmethod
    def of(trainer: Trainer) -> "LastCheckpoint | None":
        """Return the LastCheckpoint of a trainer, or None if the run saves no checkpoints."""
        kept = [] if trainer.fast_dev_run else trainer.checkpoint_callbacks
        return next((callback for callback in kept if isinstance(callback, LastCheckpoint)), None)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.path = trainer.strategy.broadcast(self.path)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        stops = trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        if trainer.fit_loop._should_accumulate() or trainer.fast_dev_run:
            return
        cut = stops and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        if cut or (due and within_epoch(trainer)):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch and not trainer.fast_dev_run:
            _log_epoch(trainer)
            self._write(trainer)

    def save(self, trainer: Trainer) -> None:
        """Save the state after a step within an epoch. Call this function only in `on_train_batch_end`."""
        # log this step's values, which Lightning would log only after all callbacks
        trainer._logger_connector.update_train_step_metrics()
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:  # write the logged values to the disk before the checkpoint
            (logger.sync if isinstance(logger, ResumableCSVLogger) else logger.save)()
        trainer.save_checkpoint(self.path, weights_only=False)


def within_epoch(trainer: Trainer) -> bool:
    """Return whether a run can resume after this step.

    A run cannot resume there if a validation or the end of the epoch follows the step.
    """
    loop = trainer.fit_loop.epoch_loop
    return not (loop._num_ready_batches_reached() or loop._should_check_val_fx(trainer.fit_loop._data_fetcher))


def _log_epoch(trainer: Trainer) -> None:
    """Log the values of an epoch, as Lightning does when it saves a checkpoint."""
    loop, connector = trainer.fit_loop.epoch_loop, trainer._logger_connector
    loop._batches_that_stepped -= 1
    connector.log_metrics(connector.metrics["log"])
    loop._batches_that_stepped += 1


class BestCheckpoint(ModelCheckpoint):
    """Saves `best.ckpt`, the state after the epoch with the highest val/acc.

    Args:
        folder: Folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "best", monitor="val/acc", mode="max", enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state, and copy the best checkpoint of the resumed run into this run's folder."""
        before = Path(state_dict["best_model_path"])
        best = Path(self.dirpath) / "best.ckpt"
        if before.is_file() and before.resolve() != best.resolve():
            best.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(before, best)
            moved = {"dirpath": self.dirpath, "best_model_path": str(best), "kth_best_model_path": str(best)}
            score = state_dict["best_model_score"]
            state_dict = {**state_dict, **moved, "best_k_models": {str(best): score}, "kth_value": score}
        super().load_state_dict(state_dict)
        self.current_score = state_dict.get("current_score")
