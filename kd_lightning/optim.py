"""Optimizers and schedules of the learning rate. A schedule gets the length of the run from the trainer."""

from __future__ import annotations

import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from kd_lightning.errors import ConfigError, check_between, check_not_negative, one_line

PER_STEP = (OneCycleLR, CyclicLR)
"""Schedules of torch that count optimizer steps; all others count epochs."""
LARGEST = 1e6
"""Largest learning rate and weight decay that are accepted."""
_RANGES = {
    **dict.fromkeys(("lr", "weight_decay"), (LARGEST, f"from 0 to {LARGEST:g}")),
    "momentum": (math.nextafter(1, 0), "at least 0 and below 1"),
    "dampening": (1.0, "from 0 to 1"),
}
"""Largest value of each argument of an optimizer, and its range in words. torch does not check all these ranges."""


class Length(NamedTuple):
    """Length of a run. Lightning's GradientAccumulationScheduler may change it from one epoch to the next."""

    epochs: float
    """Number of epochs; infinity if only the steps are limited."""
    steps: float
    """Number of optimizer steps; infinity if only the epochs are limited."""
    steps_per_epoch: float
    """Number of optimizer steps of an epoch."""

    @staticmethod
    def of(trainer: Trainer, batches: int | None = None) -> Length:
        """Return the length of the trainer's run.

        Args:
            trainer: Trainer of the run.
            batches: Number of batches of an epoch on each device. Default: the trainer's number, for which all
                processes of the run must call this function.

        Raises:
            ConfigError: if the run has no end.
        """
        if batches is None:
            if trainer.train_dataloader is None:
                trainer.fit_loop.setup_data()
            batches = trainer.num_training_batches
        epochs, steps = (
            math.inf if limit in (None, -1) else limit for limit in (trainer.max_epochs, trainer.max_steps)
        )
        if math.isinf(epochs) and math.isinf(steps):
            raise ConfigError("trainer.max_epochs: -1 sets no end, but the schedule needs one; set trainer.max_steps")
        per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
        return Length(max(epochs, 1), steps, max(per_epoch, 1))

    @property
    def total_steps(self) -> float:
        """Number of optimizer steps until the first limit."""
        return min(self.epochs * self.steps_per_epoch, self.steps)


class RunSchedule(LRScheduler, ABC):
    """A schedule that multiplies all learning rates by a factor. The factor changes after every optimizer step.

    The factor is a function of the number of epochs since the start of the run. The length of the run is read anew for
    each factor, because Lightning's GradientAccumulationScheduler changes the number of accumulated batches.

    Args:
        optimizer: optimizer with the configured learning rates. A factor of 1 gives these rates.
        warmup_epochs: number of epochs in which the factor rises linearly to 1; it may be a fraction.
        warmup_from: factor at the start of the warm-up, from 0 to 1.
    """

    def __init__(self, optimizer: Optimizer, *, warmup_epochs: float = 0.0, warmup_from: float = 0.0) -> None:
        check_not_negative(warmup_epochs=warmup_epochs)
        check_between(0, 1, warmup_from=warmup_from)
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
        warmup_from: factor at the start of the warm-up, from 0 to 1.
        final_factor: factor at the end of the run, from 0 to 1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        warmup_epochs: float = 0.0,
        warmup_from: float = 0.0,
        final_factor: float = 0.0,
    ) -> None:
        check_between(0, 1, final_factor=final_factor)
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
        gamma: factor by which each drop multiplies the learning rate, from 0 to 1.
        warmup_epochs: length of the warm-up in epochs.
        warmup_from: factor at the start of the warm-up, from 0 to 1.
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
        if sorted(milestones) != list(milestones) or not all(0 < milestone < math.inf for milestone in milestones):
            raise ConfigError(f"milestones: {milestones} must be positive epochs in rising order")
        check_between(0, 1, gamma=gamma)
        self.milestones, self.gamma = milestones, gamma
        super().__init__(optimizer, warmup_epochs=warmup_epochs, warmup_from=warmup_from)

    def factor(self, epoch: float) -> float:
        epochs = [m * self.epochs if m < 1 else m for m in self.milestones]
        return self.gamma ** sum(epoch > m - 1e-6 for m in epochs)  # in floating point, 0.55 * 100 is more than 55


def groups(parameters: Iterable[Tensor], head: Iterable[Tensor], head_scale: float) -> list[Any]:
    """Return the trained parameters for an optimizer. The head may have another learning rate than the backbone.

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
    for config in trainer.lr_scheduler_configs:
        if hasattr(config.scheduler, "base_lrs"):
            config.scheduler.base_lrs = [*bases]
            config.scheduler._last_lr = rates


def build(
    optimizer: Callable, lr_scheduler: Callable, parameters: list[Tensor], *, scale: float = 1.0
) -> tuple[Optimizer, LRScheduler]:
    """Return a new optimizer of some parameters, and the schedule of its learning rate.

    Args:
        optimizer: Function that returns the optimizer of a list of parameters.
        lr_scheduler: Function that returns the schedule of an optimizer.
        parameters: Parameters of the optimizer.
        scale: Factor of the learning rates (`lr_batch_size`).

    Raises:
        ConfigError: if the optimizer or the schedule rejects its arguments, if an argument of the optimizer is out of
            range, or if a run cannot update the schedule.
    """
    built = _built("model.optimizer", optimizer, parameters)
    if not isinstance(built, Optimizer):
        raise ConfigError(f"model.optimizer: {type(built).__module__}.{type(built).__name__} is not a torch optimizer")
    _check_groups(built)
    scale_rates(built, scale)
    _check_scaled(built)
    schedule = _built("model.lr_scheduler", lr_scheduler, built)
    if not isinstance(schedule, LRScheduler):
        raise ConfigError(
            f"model.lr_scheduler: {type(schedule).__module__}.{type(schedule).__name__} is not a torch schedule, and "
            "Lightning cannot update it; choose WarmupCosine, WarmupMultiStep or a class of torch.optim.lr_scheduler"
        )
    if isinstance(schedule, ReduceLROnPlateau) and not getattr(schedule, "monitor", None):
        raise ConfigError(
            "model.lr_scheduler: torch.optim.lr_scheduler.ReduceLROnPlateau has no argument for the value to monitor; "
            "choose lightning.pytorch.cli.ReduceLROnPlateau, and set its argument monitor, for example to val/acc"
        )
    first, *others = built.param_groups
    rates = [group.get("initial_lr", group["lr"]) / group.get("lr_scale", 1) for group in (first, *others)]
    if not all(math.isclose(rate, rates[0], rel_tol=1e-6) for rate in rates):
        raise ConfigError(
            f"model.head_lr_scale: {type(schedule).__name__} sets one learning rate for all parameters; choose another "
            "schedule, or remove model.head_lr_scale"
        )
    return built, schedule


def build_for_run(
    method: LightningModule, parameters: list[Tensor], length: Callable[[], Length]
) -> tuple[Optimizer, LRScheduler]:
    """Return the optimizer and the schedule of a run, with learning rates for its images per step and its length.

    Raises:
        ConfigError: as `build` does, and if the schedule ends before the run.
    """
    optimizer, schedule = build(method.optimizer, method.lr_scheduler, parameters, scale=_scale(method))
    if isinstance(schedule, RunSchedule):
        schedule.begin(length)
    if isinstance(schedule, OneCycleLR) and schedule.total_steps < (steps := length().total_steps):
        raise ConfigError(
            f"model.lr_scheduler: OneCycleLR has {schedule.total_steps} steps, but the run has {steps:.0f} optimizer "
            f"steps; set total_steps to {steps:.0f}"
        )
    return optimizer, schedule


def configure(method: LightningModule) -> dict[str, Any]:
    """Return the optimizer and the schedule for Lightning. The optimizer gets all parameters that require a gradient.

    Raises:
        ConfigError: if the schedule does not fit the length of the run, or if it reads a value that is not logged.
    """
    trainer = method.trainer
    parameters = groups(method.parameters(), method.classifier_parameters, method.head_lr_scale)
    optimizer, schedule = build_for_run(method, parameters, lambda: Length.of(trainer))
    step = {"scheduler": schedule, "interval": "step" if counts_steps(schedule) else "epoch"}
    if monitor := getattr(schedule, "monitor", None):
        step |= {"monitor": monitor, "frequency": _interval(trainer, monitor)}
    return {"optimizer": optimizer, "lr_scheduler": step}


def update_plateau(trainer: Trainer) -> None:
    """Update the schedules that read a logged value, at the end of an epoch and instead of Lightning.

    An epoch that a limit has ended early is not counted.
    """
    loop = trainer.fit_loop
    if loop.epoch_loop._num_ready_batches_reached():
        loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
        loop._restarting = True  # until the end of this epoch; Lightning then omits its own update


def counts_steps(schedule: Any) -> bool:
    """Return whether a schedule, or one of the schedules that it consists of, is updated after each optimizer step."""
    parts = getattr(schedule, "_schedulers", [])
    return isinstance(schedule, (RunSchedule, *PER_STEP)) or any(map(counts_steps, parts))


def _scale(method: LightningModule) -> float:
    """Return the factor of the learning rates for the number of images per step."""
    if not method.lr_batch_size:
        return 1.0
    if any(isinstance(callback, BatchSizeFinder) for callback in method.trainer.callbacks):
        raise ConfigError(
            "model.lr_batch_size: BatchSizeFinder changes the number of images per step after the learning rate is "
            "scaled; remove BatchSizeFinder and set data.batch_size, or remove model.lr_batch_size"
        )
    ratio = method.global_batch / method.lr_batch_size
    return ratio if method.lr_scaling == "linear" else math.sqrt(ratio)


def _built(field: str, make: Callable, argument: Any) -> Any:
    """Return what a constructor of another package returns, and convert its exceptions to errors of one line."""
    try:
        return make(argument)
    except ConfigError as error:
        raise ConfigError(f"{field}.{error}") from error
    except Exception as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "__init__"]
        kinds = [type(frame.f_locals["self"]).__name__ for frame in frames if "self" in frame.f_locals]
        raise failure(f"{field}: {kinds[0]} cannot be built" if kinds else field, error) from error


def failure(field: str, error: Exception) -> ConfigError:
    """Return an exception of an optimizer or of a schedule as an error of one line that names the field."""
    kind = "" if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: "
    return ConfigError(f"{field}: {kind}{one_line(error, 300)}")


def _check_groups(optimizer: Optimizer) -> None:
    """Raise an error for arguments that torch accepts, but with which the weights cannot be trained."""
    for group in optimizer.param_groups:
        if group.get("lr") is None:
            name = type(optimizer).__name__
            raise ConfigError(f"model.optimizer.lr: {name} has no learning rate by default; set a number")
        for name, (most, expected) in _RANGES.items():
            if not 0 <= float(group.get(name) or 0) <= most:
                raise ConfigError(f"model.optimizer.{name}: {float(group[name]):g} is given; it must be {expected}")
        if group.get("maximize"):
            raise ConfigError("model.optimizer.maximize: true would maximise the loss; remove it")


def _check_scaled(optimizer: Optimizer) -> None:
    """Raise an error if `model.head_lr_scale` or `model.lr_batch_size` makes a learning rate too large."""
    for group in optimizer.param_groups:
        if (rate := float(group["lr"])) > LARGEST:
            field = "model.lr_batch_size" if rate / group.get("lr_scale", 1) > LARGEST else "model.head_lr_scale"
            most = f"all learning rates must be {_RANGES['lr'][1]}"
            raise ConfigError(f"{field}: it makes the learning rate {rate:g}; {most}")


def _interval(trainer: Trainer, monitor: str) -> int:
    """Return the number of epochs between two values that a schedule reads."""
    if not monitor.startswith("val/"):
        return 1
    if not trainer.enable_validation or "val" not in getattr(trainer.datamodule, "datasets", {"val": ()}):
        raise ConfigError(
            f"model.lr_scheduler.monitor: {monitor} is given, but the run has no validation; set data.val_split above "
            "0, or monitor train/loss"
        )
    return trainer.check_val_every_n_epoch or 1
