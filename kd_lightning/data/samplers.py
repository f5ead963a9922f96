"""Which samples come when, on which rank: a function of (seed, epoch) alone."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from kd_lightning.randomness import permutation


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, row); Lightning calls `set_epoch` as every epoch begins.

    Rank r takes places r, r + world, ... of the common order. Where samples are shuffled (training), what is left
    over beyond a multiple of `world` is dropped, for all ranks must step equally often; otherwise (evaluation)
    nothing is dropped and nothing is padded, so that no sample counts twice.

    Args:
        size: number of samples.
        seed: of the order.
        shuffle: a new order each epoch, or always 0, 1, 2, ...
        rank: which share is this process's.
        world: how many shares there are.
    """

    def __init__(self, size: int, *, seed: int, shuffle: bool, rank: int = 0, world: int = 1) -> None:
        self.size, self.seed, self.shuffle, self.rank, self.world, self.epoch = size, seed, shuffle, rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.world if self.shuffle else len(range(self.rank, self.size, self.world))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rows = permutation(self.size, self.seed, self.epoch).tolist() if self.shuffle else list(range(self.size))
        for row in rows[self.rank :: self.world][: len(self)]:
            yield self.epoch, row
