"""RunStochasticWeightAveraging: stochastic weight averaging in a run that may be resumed within an epoch."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging


class RunStochasticWeightAveraging(StochasticWeightAveraging):
    """Lightning's StochasticWeightAveraging, which also restores its schedule if a run is resumed within an epoch.

    Lightning restores the schedule only at the start of an epoch. The rest of a resumed epoch would have no schedule,
    and all later learning rates would be those of the epoch before.

    Args:
        callback: Callback of the config, with its settings.
    """

    def __init__(self, callback: StochasticWeightAveraging) -> None:
        vars(self).update(vars(callback))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.restarted_mid_epoch:
            self.on_train_epoch_start(trainer, pl_module)  # the weights of this epoch are already in the average

    @property
    def state_key(self) -> str:
        return StochasticWeightAveraging.__qualname__
