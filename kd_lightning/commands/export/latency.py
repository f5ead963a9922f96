"""Latency of exported files and of PyTorch, with the same number of threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from kd_lightning.commands.export.exported_model import InferenceFn
from kd_lightning.evaluation.timing import medians


def latencies(
    runs: dict[str, tuple[InferenceFn, Tensor]], batch_sizes: list[int], repeats: int
) -> dict[str, list[float]]:
    """Return the median milliseconds of each function for each batch size; the functions are timed in turns.

    Args:
        runs: functions by name, each with images N,3,S,S. If N is smaller than the batch size, images are repeated.
        batch_sizes: batch sizes.
        repeats: number of timed repetitions of each batch.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in runs}
    for size in batch_sizes:
        calls = [partial(run, images[torch.arange(size) % len(images)]) for run, images in runs.values()]
        for name, seconds in zip(runs, medians(calls, repeats), strict=True):
            milliseconds[name].append(1e3 * seconds)
    return milliseconds


@contextmanager
def threads_of_torch(threads: int) -> Iterator[None]:
    """Set the number of PyTorch's threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
