"""Optimizers and schedules of the learning rate. A schedule gets the length of the run from the trainer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from kd_lightning.errors import ConfigError

PER_STEP = (OneCycleLR, CyclicLR)
"""Schedules of torch that count optimizer steps; all others count epochs."""


class Length(NamedTuple):
    """Length of a run at a moment; callbacks such as BatchSizeFinder and GradientAccumulationScheduler change it."""

    epochs: float
    """Number of epochs; infinity if only the steps are limited."""
    steps: float
    """Number of optimizer steps; infinity if only the epochs are limited."""
    steps_per_epoch: float
    """Number of optimizer steps of an epoch."""

    @staticmethod
    def of(trainer: Trainer) -> Length:
        """Return the length of the trainer's run.

        Raises:
            ConfigError: if the run has no end.
        """
        if trainer.train_dataloader is None:
            trainer.fit_loop.setup_data()
        epochs, steps = (
            math.inf if limit in (None, -1) else limit for limit in (trainer.max_epochs, trainer.max_steps)
        )
        if math.isinf(epochs) and math.isinf(steps):
            raise ConfigError("trainer.max_epochs: -1 sets no end, but the schedule needs one; set trainer.max_steps")
        per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        return Length(max(epochs, 1), steps, max(per_epoch, 1))

    @property
    def total_steps(self) -> float:
        """Number of optimizer steps until the first limit."""
        return min(self.epochs * self.steps_per_epoch, self.steps)


class RunSchedule(LRScheduler, ABC):
    """A schedule that multiplies all learning rates by a factor. The factor changes after every optimizer step.

    The factor is a function of the number of epochs since the start of the run. The length of the run is read anew for
    each factor, because callbacks may change the batch size or the number of accumulated batches.

    Args:
        optimizer: optimizer with the configured learning rates. A factor of 1 gives these rates.
        warmup_epochs: number of epochs in which the factor rises linearly to 1; it may be a fraction.
        warmup_from: factor at the start of the warm-up.
    """

    def __init__(self, optimizer: Optimizer, *, warmup_epochs: float = 0.0, warmup_from: float = 0.0) -> None:
        if warmup_epochs < 0:
            raise ConfigError(f"warmup_epochs: {warmup_epochs} is negative")
        self.warmup_epochs, self.warmup_from = warmup_epochs, warmup_from
        self.length: Callable[[], Length] = lambda: Length(1, math.inf, 1)
        self.steps_per_epoch: float | None = None
        self.anchor = (0.0, 0)
        """Numbers of epochs and steps at the last change of the number of steps per epoch."""
        super().__init__(optimizer)

    @abstractmethod
    def factor(self, epoch: float) -> float:
        """Return the factor, without warm-up, after a number of epochs, which may be a fraction."""

    def begin(self, length: Callable[[], Length]) -> None:
        """Set the function that returns the present length of the run, and set the learning rates."""
        self.length = length
        self._set_rates()

    def _set_rates(self) -> None:
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate

    def _epoch(self, step: float) -> float:
        """Return the number of epochs after a number of steps, at the present number of steps per epoch."""
        return self.anchor[0] + (step - self.anchor[1]) / self.steps_per_epoch

    @property
    def epochs(self) -> float:
        """Number of epochs of the run."""
        length = self.length()
        return max(min(length.epochs, self._epoch(length.steps)), 1e-9)

    def get_lr(self) -> list[float]:
        step, steps_per_epoch = max(self.last_epoch, 0), self.length().steps_per_epoch
        if steps_per_epoch != self.steps_per_epoch:
            if self.steps_per_epoch and step:
                self.anchor = (self._epoch(step - 1), step - 1)  # the last step was one of the present number
            self.steps_per_epoch = steps_per_epoch
        epoch = self._epoch(step)
        if epoch < self.warmup_epochs:
            scale = self.warmup_from + (1 - self.warmup_from) * epoch / self.warmup_epochs
        else:
            scale = self.factor(epoch)
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:  # a callback has added it (BaseFinetuning)
            self.base_lrs.append(group["lr"] / scale if scale else group["lr"])
        return [base * scale for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the number of completed steps. The settings are left out, because a resumed run reads its config."""
        return {"last_epoch": self.last_epoch, **({"anchor": self.anchor} if self.anchor[1] else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch, self.anchor = state_dict["last_epoch"], tuple(state_dict.get("anchor", (0.0, 0)))
        self.steps_per_epoch = None
        self._set_rates()


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


def groups(parameters: Iterable[Tensor], head: Iterable[Tensor], head_scale: float) -> list[Any]:
    """Return the trained parameters for an optimizer, the head with a learning rate of its own.

    Args:
        parameters: all parameters, of which only those that require a gradient are returned.
        head: parameters whose learning rate is scaled.
        head_scale: factor of their learning rate. With 1, there is only one group of parameters.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if head_scale == 1:
        return trained
    heads = {id(parameter) for parameter in head}
    return [
        {"params": [parameter for parameter in trained if id(parameter) not in heads]},
        {"params": [parameter for parameter in trained if id(parameter) in heads], "lr_scale": head_scale},
    ]


def scale_rates(optimizer: Optimizer, factor: float) -> None:
    """Multiply the learning rates by a factor and by those of `groups`. Call this once, before a schedule is built."""
    for group in optimizer.param_groups:
        group["lr"] *= factor * group.get("lr_scale", 1)


def base_rate(trainer: Trainer) -> float:
    """Return the learning rate without the factor of the schedule. The current rate of a resumed run contains it."""
    schedule = next((config.scheduler for config in trainer.lr_scheduler_configs), None)
    return float(getattr(schedule, "base_lrs", [trainer.optimizers[0].param_groups[0]["lr"]])[0])


def set_base_rate(trainer: Trainer, rate: float) -> None:
    """Set the learning rate without the factor of the schedule, for all parameters of a trainer's optimizer."""
    bases = [rate * group.get("lr_scale", 1) for group in trainer.optimizers[0].param_groups]
    for group, base in zip(trainer.optimizers[0].param_groups, bases, strict=True):
        before = group.get("initial_lr", group["lr"])
        group["lr"] = base * group["lr"] / before if before else base
        group["initial_lr"] = base
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    trainer.lightning_module.base_rates = bases
    for config in trainer.lr_scheduler_configs:
        if hasattr(config.scheduler, "base_lrs"):
            config.scheduler.base_lrs = [*bases]
            config.scheduler._last_lr = rates


def try_to_build(optimizer: Callable, lr_scheduler: Callable, parameters: list[Any]) -> str:
    """Build an optimizer and its schedule once, so that wrong settings raise an error before the run starts.

    Returns:
        The name of the optimizer's class.

    Raises:
        ConfigError: if torch rejects the settings, or if a run cannot update the schedule. In the first case, the
            message contains the message of torch.
    """
    try:
        built = optimizer(parameters)
        scale_rates(built, 1)
        schedule = lr_scheduler(built)
    except (ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"model.optimizer, model.lr_scheduler: {error}") from error
    if not isinstance(schedule, LRScheduler):
        raise ConfigError(
            f"model.lr_scheduler: {type(schedule).__module__}.{type(schedule).__name__} is no schedule of torch, and "
            "Lightning cannot update it; choose WarmupCosine, WarmupMultiStep or a class of torch.optim.lr_scheduler"
        )
    if isinstance(schedule, ReduceLROnPlateau) and not getattr(schedule, "monitor", None):
        raise ConfigError(
            "model.lr_scheduler: torch.optim.lr_scheduler.ReduceLROnPlateau does not know which value it reads; set "
            "class_path to lightning.pytorch.cli.ReduceLROnPlateau, and its argument monitor, for example to val/acc"
        )
    first, *others = built.param_groups
    rates = [group.get("initial_lr", group["lr"]) / group.get("lr_scale", 1) for group in (first, *others)]
    if not all(math.isclose(rate, rates[0], rel_tol=1e-6) for rate in rates):
        raise ConfigError(
            f"model.head_lr_scale: {type(schedule).__name__} sets one learning rate for all parameters; choose another "
            "schedule, or remove model.head_lr_scale"
        )
    return type(built).__name__


def configure(method: LightningModule) -> dict[str, Any]:
    """Return the optimizer and the schedule for Lightning. The optimizer gets all parameters that require a gradient.

    Raises:
        ConfigError: if the schedule does not fit the length of the run, or if it reads a value that is not logged.
    """
    trainer = method.trainer
    optimizer = method.optimizer(groups(method.parameters(), method.classifier_parameters, method.head_lr_scale))
    method.rate_scale = _scale(method)
    scale_rates(optimizer, method.rate_scale)
    schedule = method.lr_scheduler(optimizer)
    if isinstance(schedule, RunSchedule):
        schedule.begin(lambda: Length.of(trainer))
    method.base_rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    per_step = counts_steps(schedule)
    step = {"scheduler": schedule, "interval": "step" if per_step else "epoch"}
    if per_step:
        _check_steps(schedule, Length.of(trainer).total_steps)
    if monitor := getattr(schedule, "monitor", None):
        step |= {"monitor": monitor, "frequency": _interval(trainer, monitor)}
    return {"optimizer": optimizer, "lr_scheduler": step}


def rescale(method: LightningModule) -> None:
    """Scale the learning rates anew if the number of images per step is no longer that of `configure`."""
    factor = _scale(method) / method.rate_scale
    rates = [rate * factor for rate in method.base_rates]
    for config in method.trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if factor == 1 and not isinstance(schedule, RunSchedule):
            continue  # a resumed run keeps the rates of its checkpoint
        for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] *= factor
            group["initial_lr"] = rate
        schedule.base_lrs = rates
        if isinstance(schedule, RunSchedule):
            schedule.begin(schedule.length)


def counts_steps(schedule: Any) -> bool:
    """Return whether a schedule, or one of the schedules that it consists of, is updated after each optimizer step."""
    parts = getattr(schedule, "_schedulers", [])
    return isinstance(schedule, (RunSchedule, *PER_STEP)) or any(map(counts_steps, parts))


def _scale(method: LightningModule) -> float:
    """Return the factor of the learning rates for the present number of images per step."""
    if not method.lr_batch_size:
        return 1.0
    ratio = method.global_batch / method.lr_batch_size
    return ratio if method.lr_scaling == "linear" else math.sqrt(ratio)


def _check_steps(schedule: Any, steps: float) -> None:
    """Raise an error if a schedule ends before the run: torch's OneCycleLR would raise one at its last step."""
    if isinstance(schedule, OneCycleLR) and schedule.total_steps < steps:
        raise ConfigError(
            f"model.lr_scheduler: OneCycleLR has {schedule.total_steps} steps, but the run has {steps:.0f} optimizer "
            f"steps; set total_steps to {steps:.0f}"
        )


def _interval(trainer: Trainer, monitor: str) -> int:
    """Return the number of epochs between two values that a schedule reads."""
    if not monitor.startswith("val/"):
        return 1
    if not trainer.enable_validation or "val" not in getattr(trainer.datamodule, "datasets", {"val": ()}):
        raise ConfigError(
            f"model.lr_scheduler.monitor: {monitor} is given, but the run has no validation; set data.val_split above "
            "0, or monitor a value train/..."
        )
    return trainer.check_val_every_n_epoch or 1
