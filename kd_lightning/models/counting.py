"""Count the multiply-adds and the parameters of a network, or of a part of it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kd_lightning.models.modes import eval_mode


@torch.no_grad()
def macs(module: nn.Module, run: Callable[[], object]) -> int | None:
    """Return the multiply-adds of a computation in eval mode: half of the FLOPs that torch counts.

    Return None if torch cannot count them.

    Args:
        module: Module that contains all modules of the computation.
        run: The computation, for example a pass of one image through a part of the module.
    """
    try:
        # the counter does not accept parameters with gradients as inputs
        with eval_mode(module), _gradients(module.parameters(), on=False), FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops() // 2
    except Exception:  # whatever the reason is, a count must not end a run
        return None


def parameters(module: nn.Module, run: Callable[[], Tensor]) -> int:
    """Return the number of parameters of a module on which the result of a computation in eval mode depends.

    Args:
        module: Module that contains all modules of the computation.
        run: The computation. It returns a float tensor.
    """
    given = [*module.parameters()]
    with torch.inference_mode(False), torch.enable_grad(), eval_mode(module), _gradients(given, on=True):
        found = torch.autograd.grad(run().sum(), given, allow_unused=True)
    return sum(each.numel() for each, gradient in zip(given, found, strict=True) if gradient is not None)


@contextmanager
def _gradients(given: Iterable[nn.Parameter], *, on: bool) -> Iterator[None]:
    """Within this context, `requires_grad` of all parameters is `on`. Afterwards, each has its former value."""
    changed = [parameter for parameter in given if parameter.requires_grad != on]
    try:
        for parameter in changed:
            parameter.requires_grad_(on)
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(not on)
