"""DIST: golden values, scipy's correlations as a reference, and its invariances."""

import numpy as np
import pytest
import torch
from helpers.factories import method
from helpers.golden import student, teacher
from scipy.special import softmax
from scipy.stats import pearsonr

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import DIST
from kd_lightning.methods.dist import correlation_loss
from kd_lightning.models import Reads


def test_golden_values() -> None:
    ours, theirs = 3 * student(6, 5), 3 * teacher(6, 5)
    rows, columns = (correlation_loss(ours, theirs, temperature=4, dim=dim).item() for dim in (1, 0))
    assert rows == pytest.approx(7.9778443847, abs=1e-5)  # the 1e-8 in the denominator changes the sixth digit
    assert columns == pytest.approx(5.2209257030, abs=1e-5)
    both = sum(correlation_loss(ours, theirs, temperature=1, dim=dim) for dim in (1, 0))
    assert both.item() == pytest.approx(1.0171796499, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_scipys_correlations(temperature: float) -> None:
    ours, theirs = student(7, 4), teacher(7, 4)
    p, q = (softmax(x.numpy() / temperature, axis=1) for x in (ours, theirs))
    rows = 1 - np.mean([pearsonr(a, b).statistic for a, b in zip(p, q, strict=True)])
    columns = 1 - np.mean([pearsonr(a, b).statistic for a, b in zip(p.T, q.T, strict=True)])
    for dim, expected in ((1, rows), (0, columns)):
        found = correlation_loss(ours, theirs, temperature=temperature, dim=dim).item()
        assert found == pytest.approx(temperature**2 * expected, rel=1e-4)


def test_a_linear_change_of_the_probabilities_is_free() -> None:
    theirs = teacher(6, 5)
    flatter = (0.5 * torch.softmax(theirs, dim=1) + 0.1).log()
    assert correlation_loss(flatter, theirs, temperature=1, dim=1).abs() < 1e-5
    assert correlation_loss(-theirs, theirs, temperature=1, dim=1) > 1


def test_one_sample_has_rows_alone() -> None:
    ours = student(1, 5).requires_grad_()
    correlation_loss(ours, teacher(1, 5), temperature=4, dim=0).backward()
    assert ours.grad.abs().max() == 0


def test_inter_is_of_each_samples_classes_and_intra_of_each_class() -> None:
    built = method(DIST).eval()
    built.log = lambda *args, **kwargs: None
    images, rows = torch.randint(0, 256, (9, 3, 8, 8), dtype=torch.uint8), torch.arange(9)
    losses = built.training_terms(Batch(images, rows, rows, rows))
    ours, theirs = built.student(images), built.teacher_features(images, Reads(logits=True)).logits
    for name, dim in (("inter", 1), ("intra", 0)):
        expected = 2 * correlation_loss(ours, theirs, temperature=4, dim=dim)
        torch.testing.assert_close(losses[name], expected)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="temperature: 0"):
        method(DIST, temperature=0)
