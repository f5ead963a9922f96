"""Run a module in eval mode, and restore the mode of each of its submodules afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Within this context, a module is in eval mode. Afterwards each of its submodules has its former mode.

    The modes of the submodules may differ: a student whose backbone is not trained has a classifier in train mode.
    """
    modes = [(each, each.training) for each in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for each, mode in modes:
            each.training = mode
