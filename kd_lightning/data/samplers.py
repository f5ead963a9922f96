"""Which samples come when, on which rank: a function of (seed, epoch) alone."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import Sampler

from kd_lightning.randomness import permutation, sample_keys, without_replacement

Place = tuple[int, int, int]
"""(epoch, row, copy): copies of a row in one epoch are augmented differently; the first is copy 0."""


class EpochSampler(Sampler[Place]):
    """Yields the places of an epoch; Lightning calls `set_epoch` as every epoch begins.

    Rank r takes places r, r + world, ... of the common order. Where samples are shuffled (training), what is left
    over beyond a multiple of `world` is dropped, for all ranks must step equally often; otherwise (evaluation)
    nothing is dropped and nothing is padded, so that no sample counts twice.

    Args:
        size: number of samples.
        seed: of the order.
        shuffle: a new order each epoch, or always 0, 1, 2, ...
        rank: which share is this process's.
        world: how many shares there are.
        repeats: how often an image comes in succession, each time augmented anew, in an epoch that stays as long
            and hence shows fewer images (repeated augmentation: Hoffer et al. 2020; 3 in DeiT, TinTeM).
    """

    def __init__(self, size: int, *, seed: int, shuffle: bool, rank: int = 0, world: int = 1, repeats: int = 1) -> None:
        self.size, self.seed, self.shuffle, self.rank, self.world = size, seed, shuffle, rank, world
        self.repeats, self.epoch = repeats, 0
        self.skip = (0, 0)
        """An epoch, and how many of its places are left out: a run that stopped in it has had them."""

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.world if self.shuffle else len(range(self.rank, self.size, self.world))

    def order(self) -> Iterator[Place]:
        """This rank's places in this epoch."""
        if not self.shuffle:
            yield from ((self.epoch, row, 0) for row in range(self.rank, self.size, self.world))
            return
        rows = permutation(self.size, self.seed, self.epoch).tolist()
        for place in range(self.rank, len(self) * self.world, self.world):
            yield self.epoch, rows[place // self.repeats], place % self.repeats

    def skipped(self) -> int:
        """How many places of this epoch are left out."""
        return self.skip[1] if self.skip[0] == self.epoch else 0

    def __iter__(self) -> Iterator[Place]:
        return islice(self.order(), self.skipped(), None)


class NeighborSampler(EpochSampler):
    """Yields anchors, each followed by some of its nearest neighbours (CoSS): every sample is an anchor once an epoch.

    The neighbours are drawn without replacement from the anchor's row of the table, by its key. Ranks share the
    anchors out; an image may come again as another anchor's neighbour, then augmented differently.

    Args:
        table: N,K int64: the rows of each row's nearest neighbours, nearest first.
        count: how many neighbours come with an anchor.
        seed: of the order and of the draws.
        rank: which share is this process's.
        world: how many shares there are.
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
        for some, some_keys in zip(anchors.split(4096), keys.split(4096), strict=True):
            drawn = without_replacement(some_keys, self.table.shape[1], self.count)
            for anchor, neighbors in zip(some.tolist(), torch.gather(self.table[some], 1, drawn).tolist(), strict=True):
                yield self.epoch, anchor, 0
                yield from ((self.epoch, row, 1 + anchor) for row in neighbors)
