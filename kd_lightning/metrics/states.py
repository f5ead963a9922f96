"""States of the metrics in this package, and their synchronisation across processes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from kd_lightning import distributed


def gather_rows(x: Tensor, group: Any = None) -> list[Tensor]:
    """Return the tensors x of all ranks. This is a `dist_sync_fn` for torchmetrics, even if a rank has no rows.

    torchmetrics gives a rank without rows an empty vector. If other ranks have matrices, this would block all ranks.
    """
    if x.ndim == 0:
        return gather_all_tensors(x, group)
    row_types = distributed.everyones((tuple(x.shape[1:]), x.dtype) if len(x) else None)
    row_type = next((row_type for row_type in row_types if row_type), None)
    if row_type and not len(x):
        x = torch.empty((0, *row_type[0]), dtype=row_type[1], device=x.device)
    return gather_all_tensors(x, group)


def concatenate(rows: list[Tensor] | Tensor) -> Tensor:
    """Return a state with reduction "cat" as one tensor. The state is a list until the ranks are synchronised."""
    if isinstance(rows, Tensor):
        return rows
    return torch.cat(rows) if rows else torch.zeros(0)


class SumMetric(Metric):
    """Base of metrics that are computed from sums over images, always in float64.

    The precision of the module that contains the metric has no effect.
    """

    full_state_update = False

    def __init__(self, *sums: str, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows} | kwargs)
        for name in sums:
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> "SumMetric":
        # otherwise .to(bfloat16) of an enclosing module would round counts above 256
        return super()._apply(lambda x: x.to(fn(x).device), exclude_state)


class MeanOverImages(SumMetric):
    """Mean of a value over images. NaN without images. It is also the base of metrics that compute such a value."""

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("total", "count", **kwargs)

    def update(self, values: Tensor) -> None:
        """Add one value for each of N images."""
        self.add(values)

    def add(self, values: Tensor) -> None:
        """Add one value for each of N images. Subclasses call this function in their own `update`."""
        # not in place: a metric that Lightning used in a test has states that only inference mode may change
        self.total = self.total + values.detach().double().sum()
        self.count = self.count + len(values)

    def compute(self) -> Tensor:
        """Return the value as a float64 scalar."""
        return self.total / self.count
