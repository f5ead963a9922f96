"""Samplers: the order of samples on each rank as a function of (seed, epoch)."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from kd_lightning.randomness import permutation, sample_keys, without_replacement

Place = tuple[int, int, int]
"""Epoch of the augmentations, row and copy. The copies of a row within an epoch are augmented differently. The first
copy is number 0."""


class EpochSampler(Sampler[Place]):
    """Yields the places of an epoch. Lightning calls `set_epoch` at the start of every epoch.

    Rank r gets the places r, r + world, ... of the common order. In training, samples are shuffled, and all ranks must
    take the same number of steps. The last places are therefore dropped if their number is not a multiple of `world`.
    In evaluation, samples are not shuffled, and no place is dropped or repeated, so that every sample counts once.

    Args:
        size: Number of samples.
        seed: Seed of the order.
        shuffle: Whether each epoch has a new random order. If false, the order is always 0, 1, 2, ...
        rank: Index of this process.
        world: Number of processes.
        repeats: Number of times that an image occurs in succession, each time with a new augmentation (repeated
            augmentation: Hoffer et al. 2020; DeiT and TinTeM use 3). The length of an epoch does not change. The epoch
            therefore contains fewer images.
        group: Number of successive places that stay together on one rank if `shuffle` is false. Rank r gets the groups
            r, r + world, ...
        augmentation_epochs: Number of epochs after which the augmentations repeat. Default: never.
        repeats_order: Whether the order repeats together with the augmentations.
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
        augmentation_epochs: int | None = None,
        repeats_order: bool = False,
    ) -> None:
        self.size, self.seed, self.shuffle, self.rank, self.world = size, seed, shuffle, rank, world
        self.repeats, self.group, self.epoch = repeats, group, 0
        self.augmentation_epochs, self.repeats_order = augmentation_epochs, repeats_order
        self.skip = (0, 0)
        """An epoch, and the number of its places to skip when a run resumes within it."""

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.world if self.shuffle else len(self.rows()) * self.repeats

    def rows(self) -> list[int]:
        """Return this rank's rows without `shuffle`, in order."""
        starts = range(self.rank * self.group, self.size, self.world * self.group)
        return [row for start in starts for row in range(start, min(start + self.group, self.size))]

    def order(self) -> Iterator[Place]:
        """Yield this rank's places in this epoch."""
        if not self.shuffle:
            yield from ((self.draw, row, copy) for row in self.rows() for copy in range(self.repeats))
            return
        rows = self.shuffled().tolist()
        for place in range(self.rank, len(self) * self.world, self.world):
            yield self.draw, rows[place // self.repeats], place % self.repeats

    @property
    def draw(self) -> int:
        """Number of the epoch whose augmentations this epoch has."""
        return self.epoch % self.augmentation_epochs if self.augmentation_epochs else self.epoch

    def shuffled(self) -> Tensor:
        """Return all rows in the order of this epoch."""
        return permutation(self.size, self.seed, self.draw if self.repeats_order else self.epoch)

    def skipped(self) -> int:
        """Return the number of places of this epoch to skip."""
        return self.skip[1] if self.skip[0] == self.epoch else 0

    def __iter__(self) -> Iterator[Place]:
        return islice(self.order(), self.skipped(), None)


class NeighborSampler(EpochSampler):
    """Yields anchors, each followed by some of its nearest neighbours (CoSS). Every sample is an anchor once per epoch.

    The neighbours are drawn without replacement from the anchor's row of the table. The key of the anchor determines
    the draw. Anchors are divided among the ranks. An image may also occur as the neighbour of another anchor, with a
    different augmentation.

    Args:
        table: Nearest neighbours of each row, nearest first, as rows: N,K int64.
        count: Number of neighbours per anchor.
        seed: Seed of the order and of the draws.
        **kwargs: Further arguments of EpochSampler: rank, world, augmentation_epochs and repeats_order.
    """

    def __init__(self, table: Tensor, *, count: int, seed: int, **kwargs: Any) -> None:
        super().__init__(len(table), seed=seed, shuffle=True, **kwargs)
        self.table, self.count = table, count

    def __len__(self) -> int:
        return super().__len__() * (1 + self.count)

    def order(self) -> Iterator[Place]:
        share = self.size // self.world
        anchors = self.shuffled()[self.rank :: self.world][:share]
        keys = sample_keys(self.seed, self.draw if self.repeats_order else self.epoch, anchors)
        for part, part_keys in zip(anchors.split(4096), keys.split(4096), strict=True):
            drawn = without_replacement(part_keys, self.table.shape[1], self.count)
            for anchor, neighbors in zip(part.tolist(), torch.gather(self.table[part], 1, drawn).tolist(), strict=True):
                yield self.draw, anchor, 0
                yield from ((self.draw, row, 1 + anchor) for row in neighbors)
