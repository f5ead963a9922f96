"""Random numbers without state: a hash of (seed, epoch, sample index, draw).

The same on CPU and GPU, for any batch size, number of workers or ranks, and after a resume, because nothing is
carried from one call to the next. The mixer is splitmix64's finaliser (Steele, Lea, Flood 2014), whose 64-bit
wrap-around multiplication torch's int64 gives on every device.
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
    """Logical right shift: int64's own is arithmetic and would smear the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix_numpy(x: np.ndarray) -> np.ndarray:
    """The same for uint64, whose shift is logical: on small batches several times faster than torch."""
    x = (x ^ (x >> _THIRTY)) * _UMIX_1
    x = (x ^ (x >> _TWENTY_SEVEN)) * _UMIX_2
    return x ^ (x >> _THIRTY_ONE)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def fold_in(keys: Tensor, number: int | Tensor) -> Tensor:
    """New keys from keys and a number: int64 in, int64 out, the shape of `keys` broadcast with `number`."""
    if keys.device.type == "cpu" and not torch.compiler.is_compiling():
        return _fold_numpy(keys, number)
    salt = number * _GOLDEN + _MIX_1
    if not isinstance(number, Tensor):  # wraps around as int64 does; a tensor of it would make a GPU wait
        salt = (salt + (1 << 63)) % (1 << 64) - (1 << 63)
    return _mix(_mix(keys + _GOLDEN) ^ salt)


def _fold_numpy(keys: Tensor, number: int | Tensor) -> Tensor:
    if isinstance(number, Tensor):
        salt = np.atleast_1d(number.numpy()).view(np.uint64) * _UGOLDEN + _UMIX_1
        shape = torch.broadcast_shapes(keys.shape, number.shape)
    else:
        salt, shape = np.uint64((number * int(_UGOLDEN) + int(_UMIX_1)) % (1 << 64)), keys.shape
    held = np.atleast_1d(keys.numpy()).view(np.uint64)  # an array even of one: NumPy warns where scalars wrap around
    return torch.from_numpy(_mix_numpy(_mix_numpy(held + _UGOLDEN) ^ salt).view(np.int64)).view(shape)


def sample_keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """The keys of samples: N int64 from a run's seed, the epoch and the samples' positions (N int64)."""
    start = torch.tensor(seed, dtype=torch.int64, device=indices.device)
    return fold_in(fold_in(start, epoch), indices)


def uniform(keys: Tensor, draw: int | Tensor = 0) -> Tensor:
    """Uniform float32 in [0, 1), one a key; another `draw` gives an independent number from the same key."""
    return _shift(fold_in(keys, draw), 40).to(torch.float32) * 2.0**-24


def integers(keys: Tensor, high: int, draw: int | Tensor = 0) -> Tensor:
    """Uniform int64 in [0, high), one a key (the remainder of 63 bits: bias below high / 2**63)."""
    return _shift(fold_in(keys, draw), 1) % high


def named_key(keys: Tensor, name: str) -> Tensor:
    """New keys for a purpose of its own ("mixing", "view 1"), so that no two purposes share a draw."""
    return fold_in(keys, _number(name))


@torch.compiler.assume_constant_result
def _number(name: str) -> int:
    return zlib.crc32(name.encode())


def normal(keys: Tensor, draw: int | Tensor = 0) -> Tensor:
    """Standard normal float32, one a key (Box and Muller 1958); takes the draws `draw` and `draw` + 2**20."""
    radius = torch.sqrt(-2 * torch.log1p(-uniform(keys, draw)))
    return radius * torch.cos(2 * math.pi * uniform(keys, draw + (1 << 20)))


def gamma(keys: Tensor, shape: float) -> Tensor:
    """Gamma(shape, 1) float32, one a key: Marsaglia and Tsang 2000, the first of 12 tries that is accepted.

    A try is accepted with a chance of 0.95 or more, so that all 12 fail for fewer than one key in 10**15. Below a
    shape of 1, Gamma(shape + 1) is scaled by a power of a uniform number, as they propose.
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
    """Beta(a, b) float32 in [0, 1], one a key: the share of Gamma(a) in Gamma(a) + Gamma(b)."""
    first, second = gamma(named_key(keys, "beta a"), a), gamma(named_key(keys, "beta b"), b)
    total = first + second  # both underflow where a and b are tiny: then one of them is all, by a fair coin
    coin = (uniform(keys, 4) < a / (a + b)).float()
    return torch.where(total > 0, first / torch.where(total > 0, total, 1.0), coin)


def without_replacement(keys: Tensor, size: int, count: int) -> Tensor:
    """`count` distinct numbers of 0 to `size` - 1 for every key (N): N,count int64, in random order."""
    order = fold_in(named_key(keys, "choice")[:, None], torch.arange(size, device=keys.device))
    return torch.argsort(order, dim=1, stable=True)[:, :count]


def permutation(size: int, seed: int, epoch: int) -> Tensor:
    """The order of `size` samples in an epoch: int64, a function of seed and epoch alone."""
    # the samples' own keys, folded once more, so that the order says nothing about the augmentations
    return torch.argsort(fold_in(sample_keys(seed, epoch, torch.arange(size)), -1), stable=True)


def reseed(seed: int, *place: int) -> None:
    """Seeds the generators that keep a state (torch's, NumPy's, Python's) by a run's seed and a place in the run.

    Called before every step, it makes what is drawn there (dropout, stochastic depth) a function of the place alone:
    a run that goes on in the middle of an epoch draws what it would have drawn.
    """
    drawn = int.from_bytes(blake2b(repr((seed, *place)).encode(), digest_size=4).digest())
    torch.default_generator.manual_seed(drawn)  # torch.manual_seed takes a hundred times as long
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(drawn)
    np.random.seed(drawn)
    random.seed(drawn)
