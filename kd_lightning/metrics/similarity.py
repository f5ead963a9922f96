"""SimilarityDistance: SP's own loss between two embeddings, as a measure."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.functional import full_precision, row_normalised_gram
from kd_lightning.metrics.cka import check_pair
from kd_lightning.metrics.states import Sums, joined


class SimilarityDistance(Sums):
    """|G_theirs - G_ours|^2 / b^2 of the b,b Gram matrices with rows of length 1 (Tung & Mori 2019, eqs. 2 to 4).

    The mean over minibatches of b images: it falls about as 1 / b, so that only values of the same b compare. Batches
    of other sizes are cut and put together, on each device by itself; what the devices have left over in the end is
    put together too. A last rest of fewer than b images is left out, unless it is all there is. NaN for
    fewer than 2, or for values that are not finite.

    Args:
        batch_size: b; 128 is about that of the paper's CIFAR-10 runs.
    """

    higher_is_better = False
    total: Tensor
    count: Tensor
    ours: list[Tensor]
    theirs: list[Tensor]

    def __init__(self, *, batch_size: int = 128, **kwargs: Any) -> None:
        if batch_size < 2:
            raise ConfigError(f"batch_size: {batch_size} images have no similarity; give 2 or more")
        super().__init__("total", "count", **kwargs)
        self.batch_size = batch_size
        self.add_state("ours", [], dist_reduce_fx="cat")
        self.add_state("theirs", [], dist_reduce_fx="cat")

    def update(self, ours: Tensor, theirs: Tensor) -> None:
        """Adds images: N,... and N,..., flattened behind N."""
        check_pair(ours, theirs)
        self.ours.append(_rows(ours))
        self.theirs.append(_rows(theirs))
        if sum(map(len, self.ours)) >= self.batch_size:
            total, count, used = self._whole(joined(self.ours), joined(self.theirs))
            self.total += total
            self.count += count
            self.ours, self.theirs = ([joined(rows)[used:]] for rows in (self.ours, self.theirs))

    def compute(self) -> Tensor:
        """A float64 scalar."""
        ours, theirs = joined(self.ours), joined(self.theirs)
        total, count, _ = self._whole(ours, theirs)
        total, count = self.total + total, self.count + count
        if count == 0 and len(ours) > 1:
            return _distance(ours, theirs)
        return total / count

    def _whole(self, ours: Tensor, theirs: Tensor) -> tuple[Tensor, int, int]:
        """The sum over the whole minibatches, how many they are, and how many images."""
        count = len(ours) // self.batch_size
        used = count * self.batch_size
        parts = [slice(start, start + self.batch_size) for start in range(0, used, self.batch_size)]
        return sum((_distance(ours[part], theirs[part]) for part in parts), torch.zeros_like(self.total)), count, used


def similarity_distance(ours: Tensor, theirs: Tensor, *, batch_size: int = 128) -> Tensor:
    """`SimilarityDistance` of N,... and N,..., in their order: a float64 scalar."""
    metric = SimilarityDistance(batch_size=batch_size, sync_on_compute=False).to(ours.device)
    metric.update(ours, theirs)
    return metric.compute()


def _rows(images: Tensor) -> Tensor:
    rows = images.detach().flatten(1)
    return rows if rows.dtype == torch.float64 else rows.float()


@full_precision
def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    return (row_normalised_gram(theirs) - row_normalised_gram(ours)).square().mean().double()
