"""NLL, Brier score, calibration and confusion against scikit-learn, scipy, numpy loops and torchmetrics itself."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.metrics import brier_score_loss, confusion_matrix, log_loss, recall_score
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from kd_lightning.errors import ConfigError
from kd_lightning.metrics import NLL, Brier, CalibrationError, PerClassAccuracy
from kd_lightning.metrics import classification as metric


def some(images: int = 300, classes: int = 7, scale: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn((images, classes), generator=generator)
    guessed = torch.randint(classes, (images,), generator=generator)
    return logits, torch.where(torch.rand(images, generator=generator) < 0.4, logits.argmax(dim=1), guessed)


def binned(logits: Tensor, labels: Tensor, bins: int) -> list[tuple[float, float, int]]:
    """Each bin's mean confidence, share that is right, and count, image by image."""
    held: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for row, label in zip(logits, labels, strict=True):
        shares = row.softmax(dim=0)
        confidence = shares.max().item()
        held[min(int(confidence * bins), bins - 1)].append((confidence, bool(shares.argmax() == label)))
    return [(*np.mean(one, axis=0), len(one)) if one else (math.nan, math.nan, 0) for one in held]


def test_nll_and_brier_are_scikit_learns() -> None:
    logits, labels = some()
    exact = logits.double().numpy()
    both = {"nll": NLL(), "brier": Brier()}
    for start in range(0, 300, 64):
        for one in both.values():
            one.update(logits[start : start + 64], labels[start : start + 64])
    expected = log_loss(labels, softmax(exact, axis=1), labels=range(7))
    assert both["nll"].compute().item() == pytest.approx(expected, abs=1e-12)
    assert metric.nll(logits, labels).item() == pytest.approx(expected, abs=1e-12)
    loop = np.mean([((softmax(z) - np.eye(7)[y]) ** 2).sum() for z, y in zip(exact, labels, strict=True)])
    assert both["brier"].compute().item() == pytest.approx(loop, abs=1e-12)
    assert metric.brier(logits, labels).item() == pytest.approx(loop, abs=1e-12)


def test_brier_of_two_classes_is_twice_the_binary_one() -> None:
    logits, labels = some(classes=2)
    expected = 2 * brier_score_loss(labels, softmax(logits.double().numpy(), axis=1)[:, 1])
    assert metric.brier(logits, labels).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 7])
def test_calibration_error_is_torchmetrics_own(classes: int) -> None:
    logits, labels = some(2000, classes, 1.5)
    expected = multiclass_calibration_error(logits.softmax(dim=1), labels, classes, n_bins=15, norm="l1").item()
    assert expected > 0.05
    kept = CalibrationError(classes)
    for start in range(0, 2000, 600):
        kept.update(logits[start : start + 600], labels[start : start + 600])
    found = [kept.compute().item(), metric.ece(logits, labels).item(), metric.reliability(logits, labels).ece]
    assert found == pytest.approx([expected] * 3, abs=1e-6)


@pytest.mark.parametrize(("bins", "scale"), [(15, 2.0), (10, 30.0)])
def test_the_diagram_image_by_image(bins: int, scale: float) -> None:
    logits, labels = some(scale=scale)
    found, expected = metric.reliability(logits, labels, bins), binned(logits, labels, bins)
    assert [n for *_, n in expected] == found.count.tolist()
    np.testing.assert_allclose(np.array(expected)[:, :2].T, torch.stack(found[:2]), atol=1e-6)
    gap = sum(n * abs(a - c) for c, a, n in expected if n) / 300
    assert [found.ece, metric.ece(logits, labels, bins=bins).item()] == pytest.approx([gap] * 2, abs=1e-6)


def test_confidences_that_round_to_one_are_in_the_last_bin() -> None:
    """In a bin of their own, their gap would not be set off against that of the last bin."""
    logits = torch.tensor([[3.2, 0.0], [40.0, 0.0]])  # 0.961, right; 1, wrong
    labels = torch.tensor([0, 1])
    first = logits[0].softmax(dim=0)[0].item()
    expected, apart = abs(0.5 - (first + 1) / 2), ((1 - first) + 1) / 2
    assert metric.ece(logits, labels).item() == pytest.approx(expected, abs=1e-6)
    assert abs(apart - expected) > 0.01


def test_logits_between_zero_and_one_are_logits() -> None:
    logits, labels = torch.tensor([[0.9, 0.1], [0.2, 0.4]]), torch.tensor([0, 0])
    expected = multiclass_calibration_error(logits.softmax(dim=1), labels, 2, n_bins=15)
    assert metric.ece(logits, labels) == pytest.approx(expected.item(), abs=1e-6)


def test_confusion_and_each_class() -> None:
    logits, labels = some()
    labels[labels == 3] = 4  # a class without images
    matrix = metric.confusion(logits, labels)
    said = logits.argmax(dim=1)
    assert matrix.tolist() == confusion_matrix(labels, said, labels=range(7)).tolist()
    accuracy, count = metric.per_class(matrix)
    expected = recall_score(labels, said, labels=range(7), average=None, zero_division=np.nan)
    np.testing.assert_allclose(accuracy, expected, atol=1e-12)
    assert count.tolist() == np.bincount(labels, minlength=7).tolist()
    kept = PerClassAccuracy(7)
    kept.update(logits[:100], labels[:100])
    kept.update(logits[100:], labels[100:])
    np.testing.assert_allclose(kept.compute(), expected, atol=1e-12)


def grid(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """The best temperature and its NLL, by looking everywhere."""
    temperatures = np.exp(np.linspace(-4, 4, 80001))
    exact, rows = logits.double().numpy(), np.arange(len(labels))
    costs = [-log_softmax(exact / t, axis=1)[rows, labels].mean() for t in temperatures[::100]]
    near = int(np.argmin(costs)) * 100
    fine = temperatures[max(near - 100, 0) : near + 100]
    costs = [-log_softmax(exact / t, axis=1)[rows, labels].mean() for t in fine]
    return fine[np.argmin(costs)], min(costs)


@pytest.mark.parametrize("scale", [0.3, 1.5, 12.0])
def test_the_temperature_is_the_best_of_a_grid(scale: float) -> None:
    logits, labels = some(scale=scale)
    expected, cost = grid(logits, labels)
    found = metric.fit_temperature(logits, labels)
    assert found == pytest.approx(expected, rel=2e-4)
    assert metric.nll(logits.double() / found, labels).item() <= cost + 1e-9
    assert metric.fit_temperature(1e4 * logits.double(), labels) == pytest.approx(1e4 * found, rel=1e-4)


def test_temperatures_without_a_minimum_stay_in_bounds() -> None:
    logits, labels = some(scale=3)
    spread = (logits.amax(dim=1) - logits.amin(dim=1)).double().mean().item()
    assert metric.fit_temperature(logits, logits.argmax(dim=1)) == pytest.approx(spread / 100, rel=1e-3)
    assert metric.fit_temperature(logits, logits.argmin(dim=1)) == pytest.approx(spread * 100, rel=1e-3)
    for scale in (1e-30, 1e4, 1e30):  # the same, whatever the logits' size
        found = metric.fit_temperature(logits.double() * scale, logits.argmax(dim=1))
        assert found == pytest.approx(scale * spread / 100, rel=1e-3)
    alone = metric.fit_temperature(logits, torch.full_like(labels, 2))
    assert spread / 100 < alone < spread * 101
    for constant in (torch.full((5, 3), 0.1), torch.zeros(0, 3), torch.randn(5, 1)):
        assert metric.fit_temperature(constant, torch.zeros(len(constant), dtype=torch.long)) == 1
    assert math.isnan(metric.fit_temperature(torch.tensor([[1.0, math.inf]]), torch.tensor([0])))


FUNCTIONS = {
    "nll": metric.nll,
    "brier": metric.brier,
    "ece": metric.ece,
    "reliability": lambda *given: metric.reliability(*given).ece,
    "temperature": metric.fit_temperature,
    "confusion": lambda *given: metric.confusion(*given).sum(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_extremes(name: str) -> None:
    value = FUNCTIONS[name]
    logits, labels = some(64)
    exact = float(value(logits, labels))
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert float(value(logits.to(dtype), labels)) == pytest.approx(exact, rel=0.05)
        with torch.autocast("cpu", torch.bfloat16):
            assert float(value(logits, labels)) == exact
    for given in (logits * 1e4, logits * 1e-30, torch.zeros_like(logits), logits[:1], logits[:, :2], logits[:, :1]):
        assert math.isfinite(value(given, labels[: len(given)] % given.shape[1]))
    nothing = float(value(logits[:0], labels[:0]))
    assert nothing == {"temperature": 1, "confusion": 0}.get(name) or math.isnan(nothing)
    broken = float(value(torch.full_like(logits, math.nan), labels))
    assert math.isnan(broken) or name == "confusion"


def test_one_logit_that_is_not_finite_shows() -> None:
    logits, labels = some(64)
    logits[5, 2] = math.nan
    assert metric.ece(logits, labels).isnan()
    assert CalibrationError(7).compute().isnan()
    assert math.isnan(metric.reliability(logits, labels).ece)
    assert metric.reliability(logits, labels).confidence.isnan().all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_refusals(name: str) -> None:
    logits, labels = some(6)
    for wrong in (labels - 8, labels + 7):
        with pytest.raises(ConfigError, match=r"labels: -?\d+ to -?\d+; with 7 classes they must be 0 to 6"):
            FUNCTIONS[name](logits, wrong)
    with pytest.raises(ConfigError, match=r"logits: the shapes are \(6, 7\) with labels \(5,\)"):
        FUNCTIONS[name](logits, labels[:5])


def test_bins_are_some() -> None:
    for wrong in (metric.reliability, metric.ece):
        with pytest.raises(ConfigError, match="bins: 0"):
            wrong(*some(6), bins=0)
