"""Samplers: the order of samples on each rank as a function of (seed, epoch)."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import Sampler

from kd_lightning.randomness import permutation, sample_keys, without_replacement

Place = tuple[int, int, int]
"""(epoch, row, copy): copies of a row within an epoch are augmented differently; the first is copy 0."""


class EpochSampler(Sampler[Place]):
    """Yields the places of an epoch; Lightning calls `set_epoch` at the start of every epoch.

    Rank r gets places r, r + world, ... of the common order. If samples are shuffled (training), the remainder beyond a
    multiple of `world` is dropped, because all ranks must take the same number of steps. Otherwise (evaluation) no
    place is dropped or padded, so that every sample counts once.

    Args:
        size: number of samples.
        seed: seed of the order.
        shuffle: whether each epoch has a new random order; otherwise the order is always 0, 1, 2, ...
        rank: index of this process.
        world: number of processes.
        repeats: number of times that an image occurs in succession, each time with a new augmentation. The length of an
            epoch does not change, so that it has fewer images (repeated augmentation: Hoffer et al. 2020; 3 in DeiT,
            TinTeM).
        group: number of successive places that stay together on one rank, without `shuffle`: rank r gets the groups
            r, r + world, ...
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world: int = 1,
        repeats: int = 1,
        group: int = 1,
    ) -> None:
        self.size, self.seed, self.shuffle, self.rank, self.world = size, seed, shuffle, rank, world
        self.repeats, self.group, self.epoch = repeats, group, 0
        self.skip = (0, 0)
        """An epoch, and the number of its places to skip when a run resumes within it."""

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.world if self.shuffle else len(self.rows())

    def rows(self) -> list[int]:
        """Return this rank's rows without `shuffle`, in order."""
        starts = range(self.rank * self.group, self.size, self.world * self.group)
        return [row for start in starts for row in range(start, min(start + self.group, self.size))]

    def order(self) -> Iterator[Place]:
        """Yield this rank's places in this epoch."""
        if not self.shuffle:
            yield from ((self.epoch, row, 0) for row in self.rows())
            return
        rows = permutation(self.size, self.seed, self.epoch).tolist()
        for place in range(self.rank, len(self) * self.world, self.world):
            yield self.epoch, rows[place // self.repeats], place % self.repeats

    def skipped(self) -> int:
        """Return the number of places of this epoch to skip."""
        return self.skip[1] if self.skip[0] == self.epoch else 0

    def __iter__(self) -> Iterator[Place]:
        return islice(self.order(), self.skipped(), None)


class NeighborSampler(EpochSampler):
    """Yields anchors, each followed by some of its nearest neighbours (CoSS): every sample is an anchor once per epoch.

    The neighbours are drawn without replacement from the anchor's row of the table, by the anchor's key. Anchors are
    divided among ranks. An image may also occur as the neighbour of another anchor, with a different augmentation.

    Args:
        table: N,K int64: rows of each row's nearest neighbours, nearest first.
        count: number of neighbours per anchor.
        seed: seed of the order and of the draws.
        rank: index of this process.
        world: number of processes.
    """

    def __init__(self, table: Tensor, *, count: int, seed: int, rank: int = 0, world: int = 1) -> None:
        super().__init__(len(table), seed=seed, shuffle=True, rank=rank, world=world)
        self.table, self.count = table, count

    def __len__(self) -> int:
        return super().__len__() * (1 + self.count)

    def order(self) -> Iterator[Place]:
        share = self.size // self.world
        anchors = permutation(self.size, self.seed, self.epoch)[self.rank :: self.world][:share]
        keys = sample_keys(self.seed, self.epoch, anchors)
        for part, part_keys in zip(anchors.split(4096), keys.split(4096), strict=True):
            drawn = without_replacement(part_keys, self.table.shape[1], self.count)
            for anchor, neighbors in zip(part.tolist(), torch.gather(self.table[part], 1, drawn).tolist(), strict=True):
                yield self.epoch, anchor, 0
                yield from ((self.epoch, row, 1 + anchor) for row in neighbors)
