"""Random numbers without state: a hash of (seed, epoch, sample index, draw).

The same on CPU and GPU, for any batch size, number of workers or ranks, and after a resume, because nothing is
carried from one call to the next. The mixer is splitmix64's finaliser (Steele, Lea, Flood 2014), whose 64-bit
wrap-around multiplication torch's int64 gives on every device.
"""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: int64's own is arithmetic and would smear the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def fold(keys: Tensor, number: int | Tensor) -> Tensor:
    """New keys from keys and a number: int64 in, int64 out, the shape of `keys` broadcast with `number`."""
    if not isinstance(number, Tensor):
        number = torch.tensor(number, dtype=torch.int64, device=keys.device)
    return _mix(_mix(keys + _GOLDEN) ^ (number * _GOLDEN + _MIX_1))


def sample_keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """The keys of samples: N int64 from a run's seed, the epoch and the samples' positions (N int64)."""
    start = torch.tensor(seed, dtype=torch.int64, device=indices.device)
    return fold(fold(start, epoch), indices)


def uniform(keys: Tensor, draw: int = 0) -> Tensor:
    """Uniform float32 in [0, 1), one a key; another `draw` gives an independent number from the same key."""
    return _shift(fold(keys, draw), 40).to(torch.float32) * 2.0**-24


def integers(keys: Tensor, high: int, draw: int = 0) -> Tensor:
    """Uniform int64 in [0, high), one a key (the remainder of 63 bits: bias below high / 2**63)."""
    return _shift(fold(keys, draw), 1) % high


def permutation(size: int, seed: int, epoch: int) -> Tensor:
    """The order of `size` samples in an epoch: int64, a function of seed and epoch alone."""
    # the samples' own keys, folded once more, so that the order says nothing about the augmentations
    return torch.argsort(fold(sample_keys(seed, epoch, torch.arange(size)), -1), stable=True)
