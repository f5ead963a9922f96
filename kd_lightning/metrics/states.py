"""What the metrics here keep while images come in, and how the processes' parts are put together."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from kd_lightning import distributed


def gather_rows(x: Tensor, group: Any = None) -> list[Tensor]:
    """Every rank's x, for torchmetrics' `dist_sync_fn`, where a rank may have no rows at all.

    torchmetrics gives such a rank an empty vector; it then waits for ever on ranks that have matrices.
    """
    if x.ndim == 0:
        return gather_all_tensors(x, group)
    kinds = distributed.everyones((tuple(x.shape[1:]), x.dtype) if len(x) else None)
    kind = next((kind for kind in kinds if kind), None)
    if kind and not len(x):
        x = torch.empty((0, *kind[0]), dtype=kind[1], device=x.device)
    return gather_all_tensors(x, group)


def joined(rows: list[Tensor] | Tensor) -> Tensor:
    """A state that is reduced by "cat", as one tensor: it is a list until the ranks are put together."""
    if isinstance(rows, Tensor):
        return rows
    return torch.cat(rows) if rows else torch.zeros(0)


class Sums(Metric):
    """Base of metrics that are made of sums over images, in float64 whatever precision the module around them has."""

    full_state_update = False

    def __init__(self, *sums: str, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows} | kwargs)
        for name in sums:
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> "Sums":
        # .to(bfloat16) of a module around it would otherwise round a count at 256
        return super()._apply(lambda x: x.to(fn(x).device), exclude_state)


class MeanOverImages(Sums):
    """Base of means over images; NaN for none."""

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("total", "count", **kwargs)

    def add(self, each: Tensor) -> None:
        """One value for each of N images."""
        self.total += each.detach().double().sum()
        self.count += len(each)

    def compute(self) -> Tensor:
        """A float64 scalar."""
        return self.total / self.count
