"""How long exported files take beside PyTorch, on one setting of threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from kd_lightning.commands.export.deployed import Run
from kd_lightning.evaluation.timing import medians


def latencies(runs: dict[str, tuple[Run, Tensor]], batch_sizes: list[int], repeats: int) -> dict[str, list[float]]:
    """The median milliseconds of each run at each batch size; at a size they take turns.

    Args:
        runs: by name, each with images N,3,S,S to take batches from; where there are fewer, they come again.
        batch_sizes: in images.
        repeats: how often each batch is timed.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for size in batch_sizes:
        calls = [partial(run, images[torch.arange(size) % len(images)]) for run, images in runs.values()]
        for name, seconds in zip(runs, medians(calls, repeats), strict=True):
            found[name].append(1e3 * seconds)
    return found


@contextmanager
def threads_of_torch(threads: int) -> Iterator[None]:
    """PyTorch computes with that many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
