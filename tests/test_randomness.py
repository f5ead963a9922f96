"""Stateless random numbers: uniform, independent, and a function of their arguments only."""

import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor

from kd_lightning.randomness import fold_in, integers, permutation, sample_keys, uniform

COUNT = 200_000
KNOWN_KEYS = [-398541418963266869, -6020832771483094963, 1706787713671477804]
KNOWN_INTEGERS = [707, 259, 674]


@pytest.fixture(scope="module")
def keys() -> Tensor:
    return sample_keys(3, 5, torch.arange(COUNT))


def correlation(a: Tensor, b: Tensor) -> float:
    return torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1].item()


def test_draws_are_uniform(keys: Tensor) -> None:
    for draw in range(3):
        assert kstest(uniform(keys, draw).numpy(), "uniform").pvalue > 1e-3
        assert chisquare(torch.bincount(integers(keys, 9, draw), minlength=9).numpy()).pvalue > 1e-3
    values = uniform(keys)
    assert values.dtype == torch.float32
    assert 0 <= values.min() < 1e-4
    assert 1 - 1e-4 < values.max() < 1


def test_neighbours_draws_epochs_and_seeds_are_independent(keys: Tensor) -> None:
    first = uniform(keys)
    others = [
        first.roll(1),
        uniform(keys, 1),
        uniform(fold_in(keys, 1)),
        uniform(sample_keys(3, 6, torch.arange(COUNT))),
        uniform(sample_keys(4, 5, torch.arange(COUNT))),
        uniform(sample_keys(5, 3, torch.arange(COUNT))),
    ]
    for other in others:
        assert abs(correlation(first, other)) < 5 / COUNT**0.5
    joint = torch.bincount(integers(keys, 4) * 4 + integers(keys.roll(1), 4), minlength=16)
    assert chisquare(joint.numpy()).pvalue > 1e-3


def test_a_key_does_not_depend_on_the_batch_it_is_drawn_in(keys: Tensor) -> None:
    some = torch.tensor([7, 3, 99])
    assert torch.equal(sample_keys(3, 5, some), keys[some])
    assert torch.equal(uniform(keys[some], 2), uniform(keys, 2)[some])
    assert keys.unique().numel() == COUNT


def test_known_values() -> None:
    """These values must never change, or a run that is resumed with another version would get other images."""
    keys = sample_keys(0, 0, torch.arange(3))
    assert keys.tolist() == KNOWN_KEYS
    assert integers(keys, 1000).tolist() == KNOWN_INTEGERS


def test_permutations() -> None:
    first = permutation(1000, 0, 0)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert torch.equal(first, permutation(1000, 0, 0))
    for other in (permutation(1000, 0, 1), permutation(1000, 1, 0)):
        assert (first == other).sum() < 10
    places = torch.stack([permutation(8, seed, 0) for seed in range(4000)])
    for place in range(8):
        assert chisquare(torch.bincount(places[:, place], minlength=8).numpy()).pvalue > 1e-4
