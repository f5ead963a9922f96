"""Several processes that run one function, as the ranks of a distributed run."""

from collections.abc import Callable
from typing import Any

import torch


def start_ranks(function: Callable[..., None], args: tuple[Any, ...], count: int) -> None:
    """Run `function(rank, *args)` in `count` processes and wait for them.

    The processes are forked, so that they import nothing again, unless torch has a GPU, whose threads a fork loses.
    """
    method = "spawn" if torch.cuda.is_available() else "fork"
    torch.multiprocessing.start_processes(function, args, count, start_method=method)
