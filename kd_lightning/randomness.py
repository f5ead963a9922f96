"""Random numbers without state: each is a hash of (seed, epoch, sample index, draw).

They are the same on CPU and GPU, for any batch size, for any number of workers or ranks, and after resuming, because no
state is passed from one call to the next. The hash is the finaliser of splitmix64 (Steele, Lea, Flood 2014). It needs
64-bit multiplication with wrap-around, which torch's int64 has on every device.
"""

import math
import random
import zlib
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

_UGOLDEN, _UMIX_1, _UMIX_2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_GOLDEN, _MIX_1, _MIX_2 = (int(n) - (1 << 64) for n in (_UGOLDEN, _UMIX_1, _UMIX_2))
_THIRTY, _TWENTY_SEVEN, _THIRTY_ONE = (np.uint64(n) for n in (30, 27, 31))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Return a logical right shift; the shift of int64 is arithmetic and would repeat the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix_numpy(x: np.ndarray) -> np.ndarray:
    """Return the same as `_mix` for uint64, whose shift is logical; several times faster for small batches."""
    x = (x ^ (x >> _THIRTY)) * _UMIX_1
    x = (x ^ (x >> _TWENTY_SEVEN)) * _UMIX_2
    return x ^ (x >> _THIRTY_ONE)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def fold_in(keys: Tensor, number: int | Tensor) -> Tensor:
    """Return new int64 keys from int64 keys and a number, with the shape of `keys` broadcast with `number`."""
    if keys.device.type == "cpu" and not torch.compiler.is_compiling():
        return _fold_numpy(keys, number)
    salt = number * _GOLDEN + _MIX_1
    if not isinstance(number, Tensor):  # wrap around as int64 does, without a tensor, which would synchronise a GPU
        salt = (salt + (1 << 63)) % (1 << 64) - (1 << 63)
    return _mix(_mix(keys + _GOLDEN) ^ salt)


def _fold_numpy(keys: Tensor, number: int | Tensor) -> Tensor:
    if isinstance(number, Tensor):
        salt = np.atleast_1d(number.numpy()).view(np.uint64) * _UGOLDEN + _UMIX_1
        shape = torch.broadcast_shapes(keys.shape, number.shape)
    else:
        salt, shape = np.uint64((number * int(_UGOLDEN) + int(_UMIX_1)) % (1 << 64)), keys.shape
    array = np.atleast_1d(keys.numpy()).view(np.uint64)  # never a scalar: NumPy warns about scalars that wrap around
    return torch.from_numpy(_mix_numpy(_mix_numpy(array + _UGOLDEN) ^ salt).view(np.int64)).view(shape)


def sample_keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """Return the keys of samples, N int64, from a run's seed, the epoch and the samples' positions (N int64)."""
    start = torch.tensor(seed, dtype=torch.int64, device=indices.device)
    return fold_in(fold_in(start, epoch), indices)


def uniform(keys: Tensor, draw: int | Tensor = 0) -> Tensor:
    """Return one uniform float32 in [0, 1) per key; another `draw` gives an independent number for the same key."""
    return _shift(fold_in(keys, draw), 40).to(torch.float32) * 2.0**-24


def integers(keys: Tensor, high: int, draw: int | Tensor = 0) -> Tensor:
    """Return one uniform int64 in [0, high) per key, a remainder of 63 bits with a bias below high / 2**63."""
    return _shift(fold_in(keys, draw), 1) % high


def named_key(keys: Tensor, name: str) -> Tensor:
    """Return new keys for a purpose ("mixing", "view 1"), so that no two purposes use the same random numbers."""
    return fold_in(keys, _number(name))


@torch.compiler.assume_constant_result
def _number(name: str) -> int:
    return zlib.crc32(name.encode())


def normal(keys: Tensor, draw: int | Tensor = 0) -> Tensor:
    """Return one standard normal float32 per key (Box and Muller 1958), from the draws `draw` and `draw` + 2**20."""
    radius = torch.sqrt(-2 * torch.log1p(-uniform(keys, draw)))
    return radius * torch.cos(2 * math.pi * uniform(keys, draw + (1 << 20)))


def gamma(keys: Tensor, shape: float) -> Tensor:
    """Return one Gamma(shape, 1) float32 per key: the first of 12 tries that is accepted (Marsaglia and Tsang 2000).

    A try is accepted with a probability of 0.95 or more, so that all 12 fail for fewer than one key in 10**15. If the
    shape is below 1, Gamma(shape + 1) is multiplied by a power of a uniform number, as in the paper.
    """
    boosted = shape + 1 if shape < 1 else shape
    d = boosted - 1 / 3
    tries = fold_in(keys[..., None], torch.arange(12, device=keys.device))
    x = normal(tries)
    v = (1 + x / math.sqrt(9 * d)) ** 3
    fits = (v > 0) & (torch.log1p(-uniform(tries, 2)) < 0.5 * x**2 + d - d * v + d * torch.log(v.clamp(min=1e-30)))
    first = fits.to(torch.uint8).argmax(dim=-1, keepdim=True)
    value = d * v.gather(-1, first).squeeze(-1).clamp(min=0)
    return value * (1 - uniform(keys, 3)) ** (1 / shape) if shape < 1 else value


def beta(keys: Tensor, a: float, b: float) -> Tensor:
    """Return one Beta(a, b) float32 in [0, 1] per key: the share of Gamma(a) in Gamma(a) + Gamma(b)."""
    first, second = gamma(named_key(keys, "beta a"), a), gamma(named_key(keys, "beta b"), b)
    total = first + second  # both underflow if a and b are tiny: then 1 with probability a / (a + b), else 0
    coin = (uniform(keys, 4) < a / (a + b)).float()
    return torch.where(total > 0, first / torch.where(total > 0, total, 1.0), coin)


def without_replacement(keys: Tensor, size: int, count: int) -> Tensor:
    """Return `count` distinct numbers from 0 to `size` - 1 for each of N keys: N,count int64, in random order."""
    order = fold_in(named_key(keys, "choice")[:, None], torch.arange(size, device=keys.device))
    return torch.argsort(order, dim=1, stable=True)[:, :count]


def permutation(size: int, seed: int, epoch: int) -> Tensor:
    """Return the order of `size` samples in an epoch: int64, a function of only seed and epoch."""
    # the samples' keys are folded once more, so that the order is independent of the augmentations
    return torch.argsort(fold_in(sample_keys(seed, epoch, torch.arange(size)), -1), stable=True)


def reseed(seed: int, *place: int) -> None:
    """Seed the generators that have a state (torch's, NumPy's, Python's) from a run's seed and a place in the run.

    It is called before every step, so that the random numbers of a step (dropout, stochastic depth) depend only on its
    place. A run that resumes within an epoch therefore draws the same numbers as an uninterrupted run.
    """
    derived = int.from_bytes(blake2b(repr((seed, *place)).encode(), digest_size=4).digest())
    torch.default_generator.manual_seed(derived)  # torch.manual_seed takes a hundred times as long
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(derived)
    np.random.seed(derived)
    random.seed(derived)
