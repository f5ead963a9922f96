"""Whether anyone reads the values of a training step."""

from lightning.pytorch import Trainer


def is_read(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether a logger, the progress bar, the end (or beginning) of an epoch or a foreign callback reads them.

    Lightning's logging takes longer than a small network's step, so that a step which nobody reads logs nothing.
    """
    if any(not type(callback).__module__.startswith("kd_lightning.") for callback in trainer.callbacks):
        return True
    bar = trainer.progress_bar_callback
    refreshes = bar is not None and bar.is_enabled and (batch_idx + 1) % max(bar.refresh_rate, 1) == 0
    logs = (trainer.global_step + 1) % max(trainer.log_every_n_steps, 1) == 0
    return refreshes or logs or batch_idx == 0 or trainer.is_last_batch or trainer.should_stop
