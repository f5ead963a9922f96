"""CosineSimilarityKD: golden values of both terms, scipy's cosines, temperatures of the samples, and refusals."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import golden
from helpers.factories import method, student, with_weights
from scipy.spatial.distance import cosine
from scipy.special import softmax
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.methods import CosineSimilarityKD
from kd_lightning.methods.cosine_similarity_kd import (
    column_cosine_loss,
    cosine_similarity_kd_loss,
    weighted_temperatures,
)
from kd_lightning.models import Features

OURS, THEIRS = golden.student_logits(), golden.teacher_logits()
TEMPERATURES = [2, 2.58523568, 4.16923747, 4.50825404, 5.67869383, 6]


def test_golden_values_of_each_term() -> None:
    golden.check(lambda ours: column_cosine_loss(ours, THEIRS, temperature=4.0), (OURS,), 2.4391423816)
    temperatures = weighted_temperatures(OURS, THEIRS)
    assert temperatures.tolist() == pytest.approx(TEMPERATURES, abs=1e-8)
    golden.check(lambda ours: column_cosine_loss(ours, THEIRS, temperature=temperatures), (OURS,), 2.6164283333)


def test_golden_value_and_gradient_of_the_sum() -> None:
    """The gradient is that of temperatures that are constants."""
    golden.check(lambda ours: cosine_similarity_kd_loss(ours, THEIRS), (OURS,), 5.055570715, 1.2271445)
    assert not weighted_temperatures(OURS.clone().requires_grad_(), THEIRS).requires_grad


def test_equal_networks_have_a_loss_of_rounding() -> None:
    assert cosine_similarity_kd_loss(THEIRS, THEIRS).item() == pytest.approx(2.5e-6, rel=0.01)  # the 1e-8 is in it


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_columns_cosines_are_scipys(temperature: float) -> None:
    p, q = (softmax(x.numpy() / temperature, axis=1) for x in (OURS, THEIRS))
    distances = [cosine(a, b) for a, b in zip(p.T, q.T, strict=True)]
    found = column_cosine_loss(OURS, THEIRS, temperature=temperature, alpha=3.0).item()
    assert found == pytest.approx(3 * temperature**2 * np.mean(distances), rel=1e-6)


def test_equal_temperatures_of_all_samples_are_one_temperature() -> None:
    one, each = (column_cosine_loss(OURS, THEIRS, temperature=t) for t in (3.0, torch.full((6,), 3.0)))
    torch.testing.assert_close(one, each, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("low", "high"), [(1.0, 9.0), (3.0, 3.0)])
def test_the_least_similar_sample_has_the_highest_temperature(low: float, high: float) -> None:
    p, q = (softmax(x.numpy(), axis=1) for x in (OURS, THEIRS))
    similar = np.array([1 - cosine(a, b) for a, b in zip(p, q, strict=True)])
    expected = np.interp(similar, [similar.min(), similar.max()], [high, low])
    np.testing.assert_allclose(weighted_temperatures(OURS, THEIRS, low=low, high=high), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (THEIRS.float(), THEIRS.float()),
        (OURS[:1], THEIRS[:1]),
        (OURS[:1].expand(6, -1), THEIRS[:1].expand(6, -1)),
        (torch.zeros(6, 5), torch.zeros(6, 5)),
    ],
    ids=["equal networks", "one sample", "one sample six times", "zeros"],
)
def test_equally_similar_samples_have_the_lowest_temperature(ours: Tensor, theirs: Tensor) -> None:
    """Without a guard, they would be divided by 0, or by a difference that is only rounding."""
    found = weighted_temperatures(ours, theirs)
    assert found.dtype == ours.dtype
    assert found.tolist() == pytest.approx([2.0] * len(ours), abs=1e-5)


INVARIANCES: list[Callable[[Tensor], Tensor]] = [lambda x: x + 5 * torch.arange(6)[:, None], lambda x: x.flip(1)]


@pytest.mark.parametrize("change", INVARIANCES, ids=["constants", "order of the classes"])
def test_invariances(change: Callable[[Tensor], Tensor]) -> None:
    expected = cosine_similarity_kd_loss(OURS, THEIRS)
    torch.testing.assert_close(cosine_similarity_kd_loss(change(OURS), change(THEIRS)), expected, rtol=1e-11, atol=0)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = cosine_similarity_kd_loss(OURS[order], THEIRS[order])
    torch.testing.assert_close(permuted, expected, rtol=1e-11, atol=0)
    assert abs(cosine_similarity_kd_loss(2 * OURS, THEIRS) - expected) > 0.01


def test_the_terms_are_those_of_all_devices() -> None:
    built = method(CosineSimilarityKD, temperature=3.0, low=1.0, high=5.0, cosine_weight=0.5, weighted_weight=2.0)
    built.all_gather = lambda *logits: tuple(torch.cat([x, x.flip(1)]) for x in logits)
    found = built.losses(Features(logits=OURS), Features(logits=THEIRS), batch=None)
    everyones = [torch.cat([x, x.flip(1)]) for x in (OURS, THEIRS)]
    cosine_term = column_cosine_loss(*everyones, temperature=3.0)
    both = cosine_similarity_kd_loss(*everyones, temperature=3.0, low=1.0, high=5.0)
    torch.testing.assert_close(found, {"cosine": 0.5 * cosine_term, "weighted": 2 * (both - cosine_term)})


def test_other_classes_are_refused(tmp_path: Path) -> None:
    seven = with_weights(tmp_path, "cifar_resnet8", classes=7)
    line = r"^model.teacher.num_classes: .* has 7 classes, .* have 10, and CosineSimilarityKD reads logits"
    with pytest.raises(ConfigError, match=line):
        CosineSimilarityKD(teacher=seven, student=student())


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"low": 7.0}, "^low: 7 is given, but high is 6; give a temperature of 6 or less$"),
        ({"high": 0.0}, "^high: 0.0 is not above 0"),
        ({"temperature": 1e5}, "^temperature: 100000 is not from 0.001 to 10000"),
        ({"weighted_weight": -1.0}, "^weighted_weight: -1.0 is not a valid weight"),
    ],
)
def test_refusals(wrong: dict[str, float], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        method(CosineSimilarityKD, **wrong)
