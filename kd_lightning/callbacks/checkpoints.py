"""The checkpoints of a run: `last.ckpt`, from which the run resumes, and `best.ckpt`."""

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from kd_lightning.callbacks.checkpoint_state import BEST, LAST, restrict_states
from kd_lightning.loggers import ResumableCSVLogger


class LastCheckpoint(Checkpoint):
    """Saves `last.ckpt` at the end of each epoch, every `every_n_steps` steps, and after the step at which a run stops.

    Lightning's ModelCheckpoint is not used here. If max_steps or max_time ends a run within an epoch, ModelCheckpoint
    saves the epoch as complete. A run that resumes from this checkpoint would skip the rest of the epoch. This callback
    also makes Lightning validate after the last step of a run, even if the run ends within an epoch.

    Args:
        folder: Folder of the run.
        every_n_steps: Number of optimizer steps between two saves within an epoch. With None, `last.ckpt` is saved only
            at the end of each epoch.
    """

    def __init__(self, folder: Path, every_n_steps: int | None = None) -> None:
        self.path, self.every_n_steps = folder / LAST, every_n_steps
        self._stops, self._loops, self._interval = False, None, None

    @staticmethod
    def of(trainer: Trainer) -> "LastCheckpoint | None":
        """Return the LastCheckpoint of a trainer, or None if the run saves no checkpoints."""
        kept = [] if trainer.fast_dev_run else trainer.checkpoint_callbacks
        return next((callback for callback in kept if isinstance(callback, LastCheckpoint)), None)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.path = trainer.strategy.broadcast(self.path)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        restrict_states(trainer, checkpoint, Path(trainer.ckpt_path or "."))
        states = checkpoint.get("callbacks") or {}
        for callback in trainer.callbacks:
            if isinstance(callback, BestCheckpoint) and states.get(callback.state_key):
                callback.take_earlier(trainer, states[callback.state_key])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stops, self._loops, self._interval = False, None, trainer.check_val_every_n_epoch

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.check_val_every_n_epoch = self._interval

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._stops |= trainer.should_stop
        if trainer.fast_dev_run:
            return
        if trainer.fit_loop._should_accumulate():
            trainer.should_stop = False  # stop after the optimizer step: the state before it cannot be saved
            return
        trainer.should_stop = self._stops
        progress = trainer.fit_loop.epoch_loop.batch_progress
        stops = self._stops and trainer.fit_loop._can_stop_early  # min_epochs or min_steps may not be reached yet
        ends = stops or 0 <= trainer.max_steps <= trainer.global_step
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        cut = ends and not progress.is_last_batch
        if cut or (due and within_epoch(trainer)):
            self.save(trainer)
        if cut:
            self._loops = trainer._checkpoint_connector._get_loops_state_dict()
        if ends or (progress.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs):
            _validate_now(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            _log_epoch(trainer)
            self._write(trainer)
        elif self._loops:  # with the values of the validation, but as a state within the epoch
            self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._loops:
            checkpoint["loops"] = self._loops

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

    A run cannot resume after a step that is followed by a validation or by the end of the epoch.
    """
    loop = trainer.fit_loop.epoch_loop
    return not (loop._num_ready_batches_reached() or loop._should_check_val_fx(trainer.fit_loop._data_fetcher))


def _validate_now(trainer: Trainer) -> None:
    """Let Lightning validate after this step, unless the run never validates."""
    interval = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (interval and interval > (trainer.max_epochs or 1) > 0):
        return
    if not trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
        trainer.check_val_every_n_epoch = 1
        trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None  # the run ends in any case
        trainer.should_stop = True


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

    def take_earlier(self, trainer: Trainer, state: dict[str, Any]) -> None:
        """Change the state of this callback in a checkpoint, so that it names the best checkpoint in this run's folder.

        No path of the state is used. The best checkpoint so far is the file best.ckpt next to the checkpoint that the
        user gave. If this file contains the score of the state, it is copied into the folder of this run.
        """
        score, path = state["best_model_score"], Path(str(self.dirpath)) / BEST
        earlier = Path(trainer.ckpt_path).with_name(BEST)
        state |= {**dict.fromkeys(_OF_BEST, ""), "best_k_models": {}}
        if score is not None and self._score_in(earlier) == float(score):
            if trainer.is_global_zero and earlier.resolve() != path.resolve():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(earlier, path)
            state |= {**dict.fromkeys(_OF_BEST, str(path)), "best_k_models": {str(path): score}, "kth_value": score}
        elif score is not None:
            rank_zero_warn(f"{earlier} is not the best checkpoint of that run; the best epoch is selected from now on")
            state |= dict.fromkeys(("best_model_score", "kth_value", "current_score"))

    def _score_in(self, path: Path) -> float | None:
        """Return the score that a best.ckpt contains; None for any other file."""
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True) if path.is_file() else {}
            return float(content["callbacks"][self.state_key]["best_model_score"])
        except Exception:  # torch.load raises many types of error for unreadable files
            return None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.current_score = state_dict.get("current_score")


_OF_BEST = ("best_model_path", "kth_best_model_path")
