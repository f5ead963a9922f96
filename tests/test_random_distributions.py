"""Normal, Gamma, Beta and choices compared with scipy; the GPU path of the hash gives the same bits as the CPU path."""

import math
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from scipy import stats
from torch import Tensor

from kd_lightning import randomness
from kd_lightning.randomness import beta, fold_in, gamma, integers, named_key, normal, sample_keys, uniform

COUNT = 100_000
KEYS = sample_keys(2, 1, torch.arange(COUNT))
STREAMS = ["mixed", "share", "box", "partner", "choice", "copy", "beta a", "beta b", "view 1", "view 2", "view 3"]


class Device(str):
    type = "another"


class Elsewhere(Tensor):
    """CPU tensor that reports another device, so that `fold_in` takes the GPU path."""

    @property
    def device(self) -> Device:
        return Device("cpu")


def gpu_formula(keys: Tensor, number: int | Tensor) -> Tensor:
    mix, golden, mix_1 = randomness._mix, randomness._GOLDEN, randomness._MIX_1
    return mix(mix(keys + golden) ^ (number * golden + mix_1))


def chi_square(values: Tensor, choices: int) -> float:
    return stats.chisquare(torch.bincount(values.flatten(), minlength=choices).numpy()).pvalue


@pytest.mark.parametrize("draw", [0, 1, 5])
def test_normal(draw: int) -> None:
    values = normal(KEYS, draw)
    assert stats.kstest(values.double().numpy(), "norm").pvalue > 1e-3
    assert values.abs().max() > 3.5


@pytest.mark.parametrize("shape", [0.1, 0.5, 1.0, 1.2, 5.0, 50.0])
def test_gamma(shape: float) -> None:
    values = gamma(KEYS, shape)
    assert values.dtype == torch.float32
    assert values.min() >= 0
    assert stats.kstest(values.double().numpy(), "gamma", (shape,)).pvalue > 1e-3


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.2), (0.8, 0.8), (1.0, 1.0), (4.0, 4.0), (0.5, 3.0), (2.0, 1.0)])
def test_beta(a: float, b: float) -> None:
    """scipy's values are rounded to float32, too: 2% of Beta(0.2, 0.2) are so close to 1 that they are rounded to 1."""
    values = beta(KEYS, a, b)
    assert values.min() >= 0
    assert values.max() <= 1
    theirs = stats.beta.rvs(a, b, size=COUNT, random_state=0).astype("float32")
    assert stats.ks_2samp(values.numpy(), theirs).pvalue > 1e-3
    inner = values[(values > 1e-4) & (values < 1 - 1e-4)].double().numpy()
    low, high = stats.beta.cdf([1e-4, 1 - 1e-4], a, b)
    assert stats.kstest((stats.beta.cdf(inner, a, b) - low) / (high - low), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("a", [0.001, 0.01])
def test_beta_of_tiny_shapes_has_two_equal_sides(a: float) -> None:
    assert beta(KEYS, a, a).mean().item() == pytest.approx(0.5, abs=2 / math.sqrt(COUNT))


@pytest.mark.parametrize(("size", "count"), [(5, 2), (31, 15), (7, 7), (4, 1)])
def test_choices_without_replacement(size: int, count: int) -> None:
    some = KEYS if size < 10 else KEYS[:20_000]
    chosen = randomness.without_replacement(some, size, count)
    assert chosen.shape == (len(some), count)
    assert (chosen.sort(dim=1).values.diff(dim=1) > 0).all()
    for place in range(count):
        assert chi_square(chosen[:, place], size) > 1e-4
    if count > 1:
        pairs = torch.bincount(chosen[:, 0] * size + chosen[:, 1], minlength=size**2).view(size, size)
        assert pairs.diagonal().sum() == 0
        assert stats.chisquare(pairs[~torch.eye(size, dtype=torch.bool)].numpy()).pvalue > 1e-4


def test_streams_are_independent_of_one_another_and_of_the_keys() -> None:
    drawn = {name: named_key(KEYS, name) for name in STREAMS} | {"": KEYS, "fold 1": fold_in(KEYS, 1)}
    for (one, first), (two, second) in combinations(drawn.items(), 2):
        assert not (first == second).any(), (one, two)
        joint = integers(first, 6) * 6 + integers(second, 6)
        assert chi_square(joint, 36) > 1e-5, (one, two)
        correlation = torch.corrcoef(torch.stack([uniform(first), uniform(second)]))[0, 1]
        assert abs(correlation) < 5 / math.sqrt(COUNT), (one, two)


@pytest.mark.parametrize("number", [0, 1, -1, 7, 1 << 20, -(1 << 40), (1 << 62) + 3])
def test_folding_a_number_on_a_gpu_gives_the_same_bits(number: int) -> None:
    expected = gpu_formula(KEYS, torch.tensor(number))
    for keys, formula in ((KEYS, expected), (KEYS.view(10, -1), expected.view(10, -1)), (KEYS[3], expected[3])):
        assert torch.equal(fold_in(keys, number), formula)
        assert torch.equal(fold_in(keys, torch.tensor(number)), formula)
        assert torch.equal(fold_in(keys.as_subclass(Elsewhere), number).as_subclass(Tensor), formula)


def test_folding_tensors_on_a_gpu_gives_the_same_bits_for_all_shapes() -> None:
    some, numbers = KEYS[:60], torch.arange(-30, 30) * 1_000_003
    cases = [(some, numbers), (some[:, None], numbers[:7]), (some.view(12, 5), numbers[:5]), (some[0], numbers)]
    cases += [(some[::3], numbers[::3]), (some.view(3, 20).T, numbers[:3]), (some[4], numbers[5])]
    cases += [(some[:1].expand(9), numbers[:9]), (some[:, None, None], numbers.view(1, 4, 15)), (some[:0], numbers[:0])]
    for keys, number in cases:
        expected = gpu_formula(keys, number)
        assert expected.shape == torch.broadcast_shapes(keys.shape, number.shape)
        assert torch.equal(fold_in(keys, number), expected)
        assert torch.equal(fold_in(keys.as_subclass(Elsewhere), number).as_subclass(Tensor), expected)


@pytest.mark.parametrize("name", STREAMS)
def test_streams_on_a_gpu_give_the_same_bits(name: str) -> None:
    keys = KEYS[:50]
    assert torch.equal(named_key(keys.as_subclass(Elsewhere), name).as_subclass(Tensor), named_key(keys, name))


# pow can differ in the last bit for the elements after the last full SIMD vector
@pytest.mark.parametrize(
    ("draw", "tolerance"),
    [
        (lambda k: uniform(k, 4), 0),
        (lambda k: named_key(k, "box"), 0),
        (lambda k: randomness.without_replacement(k, 9, 4), 0),
    ]
    + [(normal, 0), (lambda k: gamma(k, 5.0), 0), (lambda k: gamma(k, 0.1), 5e-7), (lambda k: beta(k, 0.2, 0.2), 5e-7)],
)
def test_a_draw_is_a_function_of_its_key_alone(draw: Callable[[Tensor], Tensor], tolerance: float) -> None:
    keys = KEYS[:3000]
    whole = draw(keys)
    for rows in ([7], [2999, 3, 99, 3], range(5, 3000, 3), range(2999, -1, -1)):
        some = torch.tensor([*rows])
        torch.testing.assert_close(draw(keys[some]), whole[some], rtol=tolerance, atol=0)
    for size in (1, 7, 1000):
        parts = torch.cat([draw(part) for part in keys[:200].split(size)])
        torch.testing.assert_close(parts, whole[:200], rtol=tolerance, atol=0)
    torch.testing.assert_close(draw(keys[::7]), whole[::7], rtol=tolerance, atol=0)
