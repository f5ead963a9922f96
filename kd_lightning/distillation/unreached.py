"""Freeze the parameters that no loss reaches: DistributedDataParallel would wait for their gradients."""

from typing import Any

import torch
from torch import nn

from kd_lightning import distributed
from kd_lightning.distillation.checks import warn_about_idle_parameters
from kd_lightning.distillation.unchanged import unchanged


def freeze_unreached(method: nn.Module, data: Any) -> list[str]:
    """Set `requires_grad` of the parameters to false that no loss reaches, warn about them, and return their names.

    They are found by a backward pass of a few training images, which changes nothing else (see `unchanged`). Every
    process finds the same parameters, because all processes use the same images and do not communicate.
    """
    batch = data.transfer_batch_to_device(data.some_training_images(smallest_batch(method, data)), method.device, 0)
    with distributed.alone(), unchanged(method):
        method.train()
        total = torch.stack([*method.training_terms(data.augmented(batch)).values()]).sum()
        if not total.requires_grad:
            return []  # the losses reach nothing; the first step raises an error
        total.backward()
        names = without_gradient(method)
    for name in names:
        method.get_parameter(name).requires_grad_(False)
    warn_about_idle_parameters(method, names)
    return names


def without_gradient(method: nn.Module) -> list[str]:
    """Return the names of the trainable parameters that got no gradient in a backward pass."""
    return [name for name, value in method.named_parameters() if value.requires_grad and value.grad is None]


def smallest_batch(method: nn.Module, data: Any) -> int:
    """Return the smallest number of images that a step of this run may have, but at least 2 if it may have as many."""
    each = [method, *getattr(method, "parts", nn.ModuleDict()).values()]
    needed = max(getattr(one, "min_batch_size", 1) for one in each)
    count = max(needed, min(2, data.batch_size))
    return -(-count // data.group) * data.group
