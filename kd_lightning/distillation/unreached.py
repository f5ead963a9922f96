"""Freeze the parameters that no loss reaches: DistributedDataParallel would wait for their gradients."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from kd_lightning import distributed
from kd_lightning.batch import Batch
from kd_lightning.distillation.checks import warn_about_idle_parameters
from kd_lightning.distillation.unchanged import unchanged


def freeze_unreached(method: Any, data: Any) -> None:
    """Set `requires_grad` of the parameters to false that no loss reaches, and warn about them.

    They are found by a dry step: a forward and a backward pass of a few training images, which changes nothing else
    (see `unchanged`). `try_step` does the same in the dry step in which it looks for errors. This function is for all
    processes that do not call `try_step`: the further processes of a distributed run, a run with `guard.try_step
    false`, and `Trainer.fit` in Python. Every process finds the same parameters, because all processes use the same
    images and do not communicate.

    Raises:
        Exception: if a network or a loss fails. The exception is that of the network or of the loss.
    """
    batch = data.some_training_images(smallest_batch(method, data))
    with distributed.alone(), unchanged(method):
        batch = prepared(method, batch)
        names = {stage: backward(method, forward(method, batch)) for stage in in_each_stage(method)}
    freeze(method, names)


def in_each_stage(method: Any) -> Iterator[tuple[int, ...]]:
    """Let a method enter each of its stages in turn (`Stages`), and yield the numbers of the stages of all its parts.

    Gradients of an earlier stage are removed.
    """
    for number in range(max(1, *(len(each.training_stages) for each in method.staged))):
        method.enter_stage(number)
        for value in method.parameters() if number else ():
            value.grad = None
        yield tuple(each.stage for each in method.staged)


def freeze(method: Any, found: dict[tuple[int, ...], list[str]]) -> None:
    """Freeze the parameters that no stage reaches, and warn about them. Store what a single stage does not reach.

    Args:
        method: Method of the run.
        found: Names of the parameters that each stage does not reach, which a dry step has found.
    """
    names = [name for name in min(found.values(), key=len) if all(name in others for others in found.values())]
    for name in names:
        method.get_parameter(name).requires_grad_(False)
    warn_about_idle_parameters(method, names)
    left = {stage: [name for name in others if name not in {*names}] for stage, others in found.items()}
    method.unreached = {stage: [*map(method.get_parameter, others)] for stage, others in left.items()}
    method.unreached_are_frozen = True


def prepared(method: Any, batch: Batch) -> Batch:
    """Move a method and a batch to the run's device and precision, set the train mode, and return the augmented batch.

    A strategy that distributes the weights of a network would move them itself. The step is then computed where the
    weights are, without the precision of the run. Call this function within `unchanged`.
    """
    strategy, precision = method.trainer.strategy, method.trainer.precision_plugin
    if isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        precision.convert_module(method)
        method.to(strategy.root_device)
        batch = precision.convert_input(batch)
    method.train()
    method.recording = True
    return strategy.batch_to_device(batch, method.device)


def forward(method: Any, batch: Batch) -> dict[str, Tensor]:
    """Return the loss terms of a training step by name, computed as in the run (`trainer.precision`)."""
    with method.trainer.precision_plugin.forward_context():
        return method.training_terms(batch)


def backward(method: nn.Module, terms: dict[str, Tensor]) -> list[str]:
    """Compute the gradients of the sum of the terms, and return the names of the parameters that get none.

    If no trainable parameter gets a gradient, return no names.
    """
    total = torch.stack([*terms.values()]).sum()
    if not total.requires_grad:
        return []  # the losses reach nothing; the first step raises an error
    total.backward()
    return without_gradient(method)


def without_gradient(method: nn.Module) -> list[str]:
    """Return the names of the trainable parameters that got no gradient in a backward pass."""
    return [name for name, value in method.named_parameters() if value.requires_grad and value.grad is None]


def smallest_batch(method: nn.Module, data: Any) -> int:
    """Return the smallest number of images that a step of this run may have, but at least 2 if it may have as many."""
    each = [method, *getattr(method, "parts", nn.ModuleDict()).values()]
    needed = max(one.min_batch_size for one in each)
    count = max(needed, min(2, data.batch_size))
    return -(-count // data.group) * data.group
