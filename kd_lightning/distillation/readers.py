"""Check whether anything reads the logged values of a training step."""

from lightning.pytorch import Trainer


def is_read(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether anything reads the values that this training step logs.

    A step logs its values if a logger or the progress bar reads them, or if it is the first or last step of an epoch
    or of the run.
    All other steps log nothing, because Lightning's logging takes longer than a step of a small network. If there is a
    third-party callback, every step logs its values, because the callback may read them.
    """
    if any(not type(callback).__module__.startswith("kd_lightning.") for callback in trainer.callbacks):
        return True
    bar = trainer.progress_bar_callback
    refreshes = bar is not None and bar.is_enabled and (batch_idx + 1) % max(bar.refresh_rate, 1) == 0
    logs = (trainer.global_step + 1) % max(trainer.log_every_n_steps, 1) == 0
    last = trainer.is_last_batch or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step + 1
    return refreshes or logs or batch_idx == 0 or last
