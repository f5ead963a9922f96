"""RunLearningRateFinder: a search for the learning rate that a resumed run does not repeat."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities import rank_zero_info

from kd_lightning import optim
from kd_lightning.errors import RunError


class RunLearningRateFinder(LearningRateFinder):
    """Lightning's LearningRateFinder, which sets the learning rate of the optimizer and of its schedule.

    (Lightning's callback needs a method with a field `lr`. Its learning rate would be lost at the first step of the
    schedule.) The learning rate is saved in the checkpoints. A resumed run uses it, and does not search again.

    Args:
        finder: Callback of the config, with the settings of the search.
    """

    def __init__(self, finder: LearningRateFinder) -> None:
        vars(self).update(vars(finder))
        self._update_attr, self.found = False, None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        if self.found is None:
            self.lr_find(trainer, pl_module)
            self.found = self.optimal_lr.suggestion()
        if self.found is None:
            steps = len(self.optimal_lr.results["loss"])
            raise RunError(
                f"LearningRateFinder: no learning rate was found in {steps} steps; set num_training_steps and "
                "trainer.max_epochs to at least 20 steps, or remove the callback and set model.optimizer.lr"
            )
        optim.set_base_rate(trainer, self.found)
        rank_zero_info(f"LearningRateFinder: the learning rate is {self.found:.4g}")

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.found = state_dict["found"]

    @property
    def state_key(self) -> str:
        return "LearningRateFinder"
