"""What the processes of one run tell each other: the only file that knows torch.distributed."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from kd_lightning.errors import ConfigError


def world_size() -> int:
    """How many processes train together; 1 where none do."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is."""
    return dist.get_rank() if world_size() > 1 else 0


def peer_is_gone(error: BaseException) -> bool:
    """Whether an error says no more than that another process of this run has ended."""
    gone = ("Connection closed by peer", "Connection reset by peer")
    return world_size() > 1 and isinstance(error, RuntimeError) and any(words in str(error) for words in gone)


def gather(x: Tensor) -> Tensor:
    """The rows of all ranks' tensors N,..., as world N,...: their first rows, then their second ones, and so on.

    That is the order in which one process alone would have them, for ranks take the samples of an epoch in turns.
    Differentiable: a rank's gradient is the sum of what all ranks' losses ask of its rows. Where every rank computes
    the same loss of all rows, DistributedDataParallel's mean over ranks is then that loss's own gradient, without a
    factor. Half precision is raised to float32, for the sum's sake. Every rank must have the same shape.
    """
    world = world_size()
    if world == 1:
        return x
    if x.is_floating_point() and x.itemsize < 4:
        x = x.float()
    return _Gather.apply(x).unflatten(0, (world, -1)).transpose(0, 1).flatten(0, 1)


class _Gather(torch.autograd.Function):
    """torch's own (torch.distributed.nn.functional.all_gather) is deprecated and cannot be compiled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        whole = x.new_empty((world_size() * len(x), *x.shape[1:]))
        dist.all_gather_into_tensor(whole, x.contiguous())
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        own = gradient.new_empty(ctx.shape)
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own


def gather_all(x: Tensor) -> Tensor:
    """As `gather`, of ranks that may have different numbers of rows, as in evaluation; without a gradient."""
    counts = everyones(len(x))
    if len(counts) == 1:
        return x
    padded = x.new_zeros((max(counts), *x.shape[1:]))
    padded[: len(x)] = x.detach()
    real = torch.arange(max(counts))[:, None] < torch.tensor(counts)
    return gather(padded)[real.flatten().to(x.device)]


def share(x: Tensor) -> Tensor:
    """This rank's rows of what `gather` gave."""
    return x[rank() :: world_size()]


def from_first(x: Tensor) -> None:
    """Writes the first rank's tensor into that of every rank."""
    if world_size() > 1:
        dist.broadcast(x, 0)


def any_rank(flag: Tensor) -> Tensor:
    """Whether a bool scalar is true on any rank."""
    if world_size() == 1:
        return flag
    count = flag.int()
    dist.all_reduce(count, dist.ReduceOp.MAX)
    return count.bool()


def everyones(what: Any) -> list[Any]:
    """What each rank has, in their order; for what is rare, since it is pickled and waited for."""
    if world_size() == 1:
        return [what]
    found = [None] * world_size()
    dist.all_gather_object(found, what)
    return found


class SyncBatchNorm(TorchSyncBatchNorm):
    """BatchNorm over all devices' images (`trainer.sync_batchnorm`), of all that is trained.

    Lightning's own would drop the activations that timm keeps inside its norms (EfficientNet's, for one), both as it
    converts and as it puts plain norms back; this one has timm convert, and puts the same modules back.

    Raises:
        ConfigError: on several processes without GPUs, for torch has it on GPUs alone.
    """

    def __init__(self) -> None:
        self._plain: dict[str, nn.Module] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        if world_size() > 1 and next(model.parameters()).device.type == "cpu":
            raise ConfigError("trainer.sync_batchnorm: torch has it on GPUs alone; leave it out")
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
