"""Trial of the optimizer and of the schedule of the learning rate, before a run begins."""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from kd_lightning import optim
from kd_lightning.errors import ConfigError

_UPDATES = 500
"""Largest number of updates of a schedule, and of learning rates, that are computed."""
_ODD_RATE = 100.0
_ROUNDING = 1e-9
"""Largest absolute value of a negative learning rate that is taken for a rounding error."""


def copies_with_gradients(method: Any) -> list[Any]:
    """Return copies of a few trained parameters with their gradients, in the groups of the run (`optim.groups`).

    These are the smallest parameters for each number of dimensions, in the classifier and outside of it.

    Optimizers treat each tensor by itself, and some treat vectors and matrices differently. These copies therefore
    show an error as well as all parameters, but need hardly any memory. Optimizers such as AdamW would otherwise need
    three times the memory of the weights.
    """
    heads = {id(parameter) for parameter in method.classifier_parameters}
    smallest: dict[tuple[int, torch.dtype, bool], Parameter] = {}
    for value in method.parameters():
        kind = (value.ndim, value.dtype, id(value) in heads)
        if value.grad is not None and (kind not in smallest or value.numel() < smallest[kind].numel()):
            smallest[kind] = value
    copies = [Parameter(value.detach().clone()) for value in smallest.values()]
    for copy, value in zip(copies, smallest.values(), strict=True):
        copy.grad = value.grad.clone()
    head = [copy for copy, (_, _, is_head) in zip(copies, smallest, strict=True) if is_head]
    return optim.groups(copies, head, method.head_lr_scale)


def try_optimizer(method: Any, data: Any, copies: list[Any]) -> None:
    """Take two steps of the run's optimizer on copies of parameters, and compute the learning rates of the run.

    Args:
        method: method of the run.
        data: data of the run.
        copies: copies of parameters, or groups of them, as `copies_with_gradients` returns them.

    Raises:
        ConfigError: if the optimizer or the schedule fails, if it makes the weights infinite or NaN, if a learning rate
            is negative, not finite or larger than `optim.LARGEST`, or if the schedule ends before the run. The message
            names model.optimizer or model.lr_scheduler.
    """
    trainer = method.trainer
    length = optim.Length.of(trainer, data.training_batches(trainer.limit_train_batches))
    optimizer, schedule = optim.build_for_run(method, copies, lambda: length)
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    finite = all(value.isfinite().all() and value.grad.isfinite().all() for value in parameters)
    try:
        for _ in range(2):
            _step(optimizer, trainer)
    except Exception as error:
        raise optim.failure(f"model.optimizer: {type(optimizer).__name__} cannot take a step", error) from error
    if finite and not all(value.isfinite().all() for value in parameters):
        raise ConfigError(
            f"model.optimizer: two steps of {type(optimizer).__name__} give weights that are not finite; change its "
            "arguments"
        )
    _check_rates(optimizer, schedule, length)


def _step(optimizer: Optimizer, trainer: Any) -> None:
    """Take a step as Lightning does: it passes a closure, except with a gradient scaler (16-mixed)."""
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    gradients = [value.grad.clone() for value in parameters]

    def closure() -> torch.Tensor:
        for value, gradient in zip(parameters, gradients, strict=True):
            value.grad = gradient.clone()
        if trainer.gradient_clip_val:
            trainer.precision_plugin.clip_gradients(
                optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm or "norm"
            )
        return gradients[0].new_zeros(())

    if getattr(trainer.precision_plugin, "scaler", None) is None:
        optimizer.step(closure)
        return
    closure()
    optimizer.step()


def _check_rates(optimizer: Optimizer, schedule: LRScheduler, length: optim.Length) -> None:
    """Raise an error for an impossible learning rate of the run, and warn about odd ones."""
    name, unit = type(schedule).__name__, "step" if optim.counts_steps(schedule) else "epoch"
    highest, impossible = 0.0, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the schedule is updated without steps of the optimizer
            for moment, rates in _rates(optimizer, schedule, length):
                highest = max(highest, *rates)
                bad = [rate for rate in rates if not -_ROUNDING <= rate <= optim.LARGEST]
                impossible = impossible or (f"{bad[0]:g} in {unit} {moment}" if bad else None)
    except Exception as error:
        raise optim.failure(f"model.lr_scheduler: {name} cannot be updated", error) from error
    if impossible:
        raise ConfigError(
            f"model.lr_scheduler: {name} gives the learning rate {impossible}; all learning rates must be from 0 to "
            f"{optim.LARGEST:g}"
        )
    decay = highest * max(float(group.get("weight_decay") or 0) for group in optimizer.param_groups)
    if not highest:
        rank_zero_warn("model.optimizer: the learning rate is 0 in all steps, so that nothing is trained")
    elif highest > _ODD_RATE:
        rank_zero_warn(f"model.optimizer: the learning rate rises to {highest:g}, which is unusually high")
    if decay > 1:
        rank_zero_warn(
            f"model.optimizer: the product of the learning rate and weight_decay is {decay:g}; above 1, the weight "
            "decay of a step can be larger than the weights"
        )


def _rates(optimizer: Optimizer, schedule: LRScheduler, length: optim.Length) -> Iterator[tuple[int, list[float]]]:
    """Yield numbers of steps or epochs and the learning rates after them, at most `_UPDATES` in the whole run.

    Schedules that are a function of the number of steps are evaluated over the whole run. All others are updated one
    after the other, from the start of the run.
    """
    epochs = min(length.epochs, length.total_steps / length.steps_per_epoch)
    count = math.ceil(length.total_steps if optim.counts_steps(schedule) else epochs)
    for moment in range(min(count, _UPDATES)):
        yield moment, [float(group["lr"]) for group in optimizer.param_groups]
        schedule.step(*((0.0,) if isinstance(schedule, ReduceLROnPlateau) else ()))
    if count <= _UPDATES or not isinstance(schedule, (optim.RunSchedule, *optim.PER_STEP)):
        return
    for part in range(_UPDATES):
        schedule.last_epoch = moment = (count - 1) * (part + 1) // _UPDATES
        yield moment, [*map(float, schedule.get_lr())]
