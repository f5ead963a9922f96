"""Scores of membership inference, and the true positive rate at 1 % false positives, against scipy and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score, roc_curve

from kd_lightning.errors import ConfigError
from kd_lightning.metrics.membership import log_odds, tpr_at_1_fpr
from kd_lightning.metrics.ood import auroc


def test_log_odds_are_those_of_scipys_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn((50, 7), generator=generator)
    labels = torch.randint(7, (50,), generator=generator)
    log_p = log_softmax(logits.double().numpy(), axis=1)[np.arange(50), labels.numpy()]
    np.testing.assert_allclose(log_odds(logits, labels), log_p - np.log1p(-np.exp(log_p)), rtol=1e-9)
    assert np.array_equal(log_odds(logits, labels).argsort().numpy(), log_p.argsort())


def test_certain_images_are_still_ordered() -> None:
    """Their probabilities and cross-entropies are rounded to 1 and 0, so that all would be equal."""
    gaps = torch.tensor([40.0, 60.0, 50.0, 1000.0])
    logits, labels = torch.stack([gaps, 0 * gaps], dim=1), torch.zeros(4, dtype=torch.int64)
    assert logits.double().softmax(dim=1)[:, 0].unique().tolist() == [1.0]
    torch.testing.assert_close(log_odds(logits, labels), gaps.double())
    torch.testing.assert_close(log_odds(logits, 1 - labels), -gaps.double())


@pytest.mark.parametrize(("members", "others"), [(500, 500), (37, 1000), (200, 99), (200, 100), (200, 101), (5, 1)])
@pytest.mark.parametrize("digits", [9, 1, 0], ids=["distinct", "some ties", "many ties"])
def test_auroc_and_true_positives_are_scikit_learns(members: int, others: int, digits: int) -> None:
    generator = np.random.default_rng(members)
    scores = [generator.normal(shift, 1, size).round(digits) for shift, size in ((1, members), (0, others))]
    truth, joined = np.repeat([1, 0], [members, others]), np.concatenate(scores)
    false, true, _ = roc_curve(truth, joined, drop_intermediate=False)
    assert tpr_at_1_fpr(*map(torch.from_numpy, scores)) == pytest.approx(true[false <= 0.01].max(), abs=1e-12)
    assert auroc(*map(torch.from_numpy, scores)) == pytest.approx(roc_auc_score(truth, joined))


def test_no_member_is_found_where_all_scores_are_equal() -> None:
    assert tpr_at_1_fpr(torch.zeros(200), torch.zeros(200)) == 0
    assert tpr_at_1_fpr(torch.ones(200), torch.zeros(200)) == 1
    assert math.isnan(tpr_at_1_fpr(torch.zeros(0), torch.zeros(3)))
    assert math.isnan(tpr_at_1_fpr(torch.zeros(3), torch.tensor([0.0, math.nan])))


@pytest.mark.parametrize(("logits", "classes"), [((5, 1), 5), ((5, 3), 4), ((15,), 5)])
def test_refusals(logits: tuple[int, ...], classes: int) -> None:
    with pytest.raises(ConfigError, match=r"^logits: the shapes of .*, but they must be N,K and N, K > 1$"):
        log_odds(torch.zeros(logits), torch.zeros(classes, dtype=torch.int64))
