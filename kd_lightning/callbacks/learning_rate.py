"""RunLearningRateFinder: a search for the learning rate that a resumed run does not repeat."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.utilities import rank_zero_info

from kd_lightning import optim
from kd_lightning.errors import ConfigError, RunError

_SKIPPED = 10
"""Number of first steps to skip, because their smoothed losses are means of few values."""
_LEAST_STEPS = _SKIPPED + 4
"""Smallest number of steps of a search."""


class RunLearningRateFinder(LearningRateFinder):
    """Lightning's LearningRateFinder, which sets the learning rate of the optimizer and of its schedule.

    The learning rate is saved in the checkpoints. A resumed run uses it, and does not search again.

    Lightning's callback needs a method with a field `lr`, and the first step of the schedule would replace its learning
    rate. It also selects the rate at which the loss falls fastest per unit of the learning rate. In an exponential
    search, this is often one of the smallest rates, because their differences are close to 0. This class selects the
    rate at which the loss falls fastest per step.

    Args:
        finder: Callback of the config, with the settings of the search.

    Raises:
        ConfigError: if no learning rate can be found with these settings.
    """

    def __init__(self, finder: LearningRateFinder) -> None:
        vars(self).update(vars(finder))
        _check(finder)
        self._update_attr, self.found = False, None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fast_dev_run:
            return
        if self.found is None:
            epochs = trainer.fit_loop.max_epochs
            if epochs not in (None, -1):  # the search may be longer than the run
                trainer.fit_loop.max_epochs = epochs + self._num_training_steps
            try:
                self.lr_find(trainer, pl_module)
            finally:
                trainer.fit_loop.max_epochs = epochs
            self.found = _steepest(**self.optimal_lr.results)
        if self.found is None:
            steps = len(self.optimal_lr.results["loss"])
            raise RunError(
                f"LearningRateFinder: no learning rate was found in {steps} steps; set a larger "
                "num_training_steps or max_lr, or remove the callback and set model.optimizer.lr"
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


def _check(finder: LearningRateFinder) -> None:
    field = "trainer.callbacks: LearningRateFinder"
    if finder._num_training_steps < _LEAST_STEPS:
        raise ConfigError(
            f"{field}.num_training_steps: {finder._num_training_steps} is less than {_LEAST_STEPS}; with fewer steps, "
            "no learning rate is found"
        )
    if finder._min_lr < 0 or (finder._min_lr == 0 and finder._mode == "exponential"):
        raise ConfigError(f"{field}.min_lr: {finder._min_lr} is not above 0")
    if not finder._min_lr < finder._max_lr <= optim.LARGEST:
        raise ConfigError(
            f"{field}.max_lr: {finder._max_lr} is not above min_lr, {finder._min_lr}, and at most {optim.LARGEST:g}"
        )
    if finder._early_stop_threshold is not None and not finder._early_stop_threshold > 1:
        raise ConfigError(
            f"{field}.early_stop_threshold: {finder._early_stop_threshold} is not above 1; null disables it"
        )


def _steepest(lr: list[float], loss: list[float]) -> float | None:
    """Return the learning rate at which the loss falls fastest per step. Return None if there are too few losses.

    Args:
        lr: Learning rates of the steps of a search, in rising order.
        loss: Smoothed loss of each step.
    """
    kept = [(rate, value) for rate, value in zip(lr, loss, strict=False) if math.isfinite(value)][_SKIPPED:-1]
    if len(kept) < 3:
        return None
    slopes = torch.gradient(torch.tensor([value for _, value in kept]))[0]
    return kept[int(slopes.argmin())][0]
