"""Communication between the processes of a run. Other modules use torch.distributed only through this module."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from kd_lightning.errors import ConfigError

_alone = False
"""Whether this process computes without the others, so that nothing waits for them."""


@contextmanager
def alone() -> Iterator[None]:
    """Inside the block, this process is a run of one process, for computations that the other processes do not do."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def world_size() -> int:
    """Return the number of processes of the run; 1 if it is not distributed, and inside `alone`."""
    return dist.get_world_size() if not _alone and dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def peer_is_gone(error: BaseException) -> bool:
    """Return whether an error only reports that another process of this run has ended."""
    gone = ("Connection closed by peer", "Connection reset by peer")
    return world_size() > 1 and isinstance(error, RuntimeError) and any(words in str(error) for words in gone)


def gather(x: Tensor) -> Tensor:
    """Return one tensor with the rows of the tensors N,... of all ranks.

    The first row of each rank comes first, then the second row of each rank, and so on. A single process would have the
    rows in the same order, because ranks take the samples of an epoch in turn. The tensors of all ranks must have the
    same shape.

    The function is differentiable. The gradient of a rank's rows is the sum of the gradients from the losses of all
    ranks. Half precision is converted to float32, because gradients are summed. DistributedDataParallel averages the
    gradients of the parameters over ranks. If every rank computes the same loss from all rows, this average is exactly
    the gradient of the loss, and no factor is needed.
    """
    world = world_size()
    if world == 1:
        return x
    if x.is_floating_point() and x.itemsize < 4:
        x = x.float()
    return _Gather.apply(x).unflatten(0, (world, -1)).transpose(0, 1).flatten(0, 1)


class _Gather(torch.autograd.Function):
    """Differentiable all-gather; torch.distributed.nn.functional.all_gather is deprecated and cannot be compiled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        gathered = x.new_empty((world_size() * len(x), *x.shape[1:]))
        dist.all_gather_into_tensor(gathered, x.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        own = gradient.new_empty(ctx.shape)
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own


def gather_all(x: Tensor) -> Tensor:
    """Return the rows of all ranks as `gather` does, but without gradient.

    The ranks may have different numbers of rows, as in evaluation.
    """
    counts = everyones(len(x))
    if len(counts) == 1:
        return x
    padded = x.new_zeros((max(counts), *x.shape[1:]))
    padded[: len(x)] = x.detach()
    real = torch.arange(max(counts))[:, None] < torch.tensor(counts)
    return gather(padded)[real.flatten().to(x.device)]


def share(x: Tensor) -> Tensor:
    """Return the rows of this rank from a tensor that `gather` returned."""
    return x[rank() :: world_size()]


def from_first(x: Tensor) -> None:
    """Copy the tensor of the first rank into the tensors of all ranks."""
    if world_size() > 1:
        dist.broadcast(x, 0)


def any_rank(flag: Tensor) -> Tensor:
    """Return a bool scalar that is true if `flag` is true on at least one rank."""
    if world_size() == 1:
        return flag
    count = flag.int()
    dist.all_reduce(count, dist.ReduceOp.MAX)
    return count.bool()


def everyones(what: Any) -> list[Any]:
    """Return the objects of all ranks in the order of the ranks.

    The function is slow, because the objects are pickled and the ranks wait for one another.
    """
    if world_size() == 1:
        return [what]
    objects = [None] * world_size()
    dist.all_gather_object(objects, what)
    return objects


class SyncBatchNorm(TorchSyncBatchNorm):
    """Batch normalisation over the images of all devices (`trainer.sync_batchnorm`), except in the teacher.

    Some norm layers of timm (for example in EfficientNet) contain an activation function. Lightning's
    TorchSyncBatchNorm loses this function when it converts and restores the layers. This class therefore lets timm
    convert the layers, and restores the original modules.

    Raises:
        ConfigError: if several processes run on CPUs, because torch supports this class only on GPUs.
    """

    def __init__(self) -> None:
        self._plain: dict[str, nn.Module] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        if world_size() > 1 and next(model.parameters()).device.type == "cpu":
            raise ConfigError("trainer.sync_batchnorm: true is supported only on GPUs; omit the field")
        norms = (item for item in model.named_modules() if isinstance(item[1], nn.modules.batchnorm._BatchNorm))
        self._plain = {name: module for name, module in norms if not name.startswith("teacher.")}
        for name, module in self._plain.items():
            model.set_submodule(name, convert_sync_batchnorm(module))
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for name, module in self._plain.items():
            synced = model.get_submodule(name)
            module._parameters, module._buffers = synced._parameters, synced._buffers
            model.set_submodule(name, module.train(synced.training))
        return model
