"""Optimizers and schedules of the learning rate. A schedule gets the length of the run from the trainer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kd_lightning.errors import ConfigError


class RunSchedule(LRScheduler, ABC):
    """A schedule that multiplies all learning rates by a factor. The factor changes after every optimizer step.

    The factor is a function of the number of epochs since the start of the run.

    Args:
        optimizer: optimizer with the configured learning rates. A factor of 1 gives these rates.
        warmup_epochs: number of epochs in which the factor rises linearly to 1; it may be a fraction.
        warmup_from: factor at the start of the warm-up.
    """

    def __init__(self, optimizer: Optimizer, *, warmup_epochs: float = 0.0, warmup_from: float = 0.0) -> None:
        if warmup_epochs < 0:
            raise ConfigError(f"warmup_epochs: {warmup_epochs} is negative")
        self.warmup_epochs, self.warmup_from = warmup_epochs, warmup_from
        self.steps_per_epoch, self.epochs = 1.0, 1.0
        super().__init__(optimizer)

    @abstractmethod
    def factor(self, epoch: float) -> float:
        """Return the factor, without warm-up, after a number of epochs, which may be a fraction."""

    def begin(self, total_steps: float, steps_per_epoch: float) -> None:
        """Set the length of the run and the first learning rates."""
        self.steps_per_epoch = max(steps_per_epoch, 1.0)
        self.epochs = max(total_steps / self.steps_per_epoch, 1e-9)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
        self._last_lr = self.get_lr()

    def get_lr(self) -> list[float]:
        epoch = max(self.last_epoch, 0) / self.steps_per_epoch
        if epoch < self.warmup_epochs:
            scale = self.warmup_from + (1 - self.warmup_from) * epoch / self.warmup_epochs
        else:
            scale = self.factor(epoch)
        return [base * scale for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the number of completed steps. The settings are left out, because a resumed run reads its config."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch = state_dict["last_epoch"]
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


class WarmupCosine(RunSchedule):
    """Linear warm-up, then half a cosine until the end of the run (Loshchilov & Hutter 2017, without restarts).

    Args:
        optimizer: optimizer with the configured learning rates.
        warmup_epochs: length of the warm-up in epochs.
        warmup_from: factor at the start of the warm-up.
        final_factor: factor at the end of the run.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        warmup_epochs: float = 0.0,
        warmup_from: float = 0.0,
        final_factor: float = 0.0,
    ) -> None:
        self.final_factor = final_factor
        super().__init__(optimizer, warmup_epochs=warmup_epochs, warmup_from=warmup_from)

    def factor(self, epoch: float) -> float:
        span = max(self.epochs - self.warmup_epochs, 1e-9)
        done = min(max((epoch - self.warmup_epochs) / span, 0.0), 1.0)
        return self.final_factor + (1 - self.final_factor) * 0.5 * (1 + math.cos(math.pi * done))


class WarmupMultiStep(RunSchedule):
    """Linear warm-up, then a drop of the learning rate at each milestone.

    Args:
        optimizer: optimizer with the configured learning rates.
        milestones: numbers of epochs after which the learning rate drops. Values below 1 are fractions of the run.
        gamma: factor by which each drop multiplies the learning rate.
        warmup_epochs: length of the warm-up in epochs.
        warmup_from: factor at the start of the warm-up.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        milestones: list[float],
        gamma: float = 0.1,
        warmup_epochs: float = 0.0,
        warmup_from: float = 0.0,
    ) -> None:
        if sorted(milestones) != list(milestones) or any(milestone <= 0 for milestone in milestones):
            raise ConfigError(f"milestones: {milestones} must be positive epochs in rising order")
        self.milestones, self.gamma = milestones, gamma
        super().__init__(optimizer, warmup_epochs=warmup_epochs, warmup_from=warmup_from)

    def factor(self, epoch: float) -> float:
        epochs = [m * self.epochs if m < 1 else m for m in self.milestones]
        return self.gamma ** sum(epoch > m - 1e-6 for m in epochs)  # in floating point, 0.55 * 100 is more than 55


def scale_rates(optimizer: Optimizer, factor: float) -> None:
    """Multiply all learning rates of an optimizer by a factor. Call this before a schedule is built."""
    for group in optimizer.param_groups:
        group["lr"] *= factor


def try_to_build(optimizer: Callable, lr_scheduler: Callable, parameters: Iterable[Tensor]) -> str:
    """Build an optimizer and its schedule once, so that wrong settings raise an error before the run starts.

    Returns:
        The name of the optimizer's class.

    Raises:
        ConfigError: if torch rejects the settings. The message contains the message of torch.
    """
    try:
        built = optimizer(parameters)
        lr_scheduler(built)
    except (ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"model.optimizer, model.lr_scheduler: {error}") from error
    return type(built).__name__


def configure(method: LightningModule) -> dict[str, Any]:
    """Return the optimizer and the schedule for Lightning. The optimizer gets all parameters that require a gradient.

    Raises:
        ConfigError: if the run has no end, but the schedule needs the length of the run.
    """
    trainer = method.trainer
    optimizer = method.optimizer([parameter for parameter in method.parameters() if parameter.requires_grad])
    if method.lr_batch_size:
        ratio = method.global_batch / method.lr_batch_size
        scale_rates(optimizer, ratio if method.lr_scaling == "linear" else math.sqrt(ratio))
    schedule = method.lr_scheduler(optimizer)
    per_step = isinstance(schedule, RunSchedule)
    if per_step:
        trainer.fit_loop.setup_data()  # otherwise the length of an epoch is unknown in a run with max_steps
        total_steps = trainer.estimated_stepping_batches
        if math.isinf(total_steps):
            raise ConfigError("trainer.max_epochs: -1 sets no end, but the schedule needs one; set trainer.max_steps")
        schedule.begin(total_steps, math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))
    step = {
        "scheduler": schedule,
        "interval": "step" if per_step else "epoch",
        "monitor": getattr(schedule, "monitor", None),
    }
    return {"optimizer": optimizer, "lr_scheduler": step}
