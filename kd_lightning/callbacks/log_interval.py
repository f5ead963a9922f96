"""LogInterval: log the values of at least one training step per epoch."""

import math

from lightning.pytorch import Callback, LightningModule, Trainer


class LogInterval(Callback):
    """Limits `trainer.log_every_n_steps` to the number of optimizer steps of an epoch. The value 0 is kept.

    Otherwise, the loggers would get no training values in some epochs of a run with few steps per epoch.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = trainer.num_training_batches / trainer.accumulate_grad_batches
        if math.isfinite(steps):
            trainer.log_every_n_steps = min(trainer.log_every_n_steps, max(math.ceil(steps), 1))
