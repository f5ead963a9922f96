"""Scores of the unknown, AUROC and FPR95 against scikit-learn, scipy and loops."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.metrics import cosines, ood


def some(width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, and training images with their classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (150,), generator=generator)
    mix = torch.randn((width, width), generator=generator)
    bank = (
        2 * torch.randn((4, width), generator=generator)[labels] + torch.randn((150, width), generator=generator) @ mix
    )
    return 3 * torch.randn((40, width), generator=generator), bank, labels


def scores(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(233, generator=generator) + 1, torch.randn(170, generator=generator)


def test_scores_of_logits() -> None:
    logits = 3 * torch.randn((50, 7), generator=torch.Generator().manual_seed(0))
    exact = logits.double().numpy()
    np.testing.assert_allclose(ood.msp(logits), softmax(exact, axis=1).max(axis=1), rtol=1e-12)
    for t in (1.0, 2.5):
        np.testing.assert_allclose(ood.energy(logits, t), t * logsumexp(exact / t, axis=1), rtol=1e-12)
    assert torch.equal(ood.energy(logits), ood.energy(logits, 1.0))


@pytest.mark.parametrize("floats", [1, 1 << 24])
@pytest.mark.parametrize("k", [1, 5, 150])
def test_the_kth_cosine_is_scikit_learns(k: int, floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosines, "_FLOATS", floats)
    queries, bank, _ = some()
    found = NearestNeighbors(n_neighbors=k, metric="cosine").fit(bank.double()).kneighbors(queries.double())[0]
    np.testing.assert_allclose(ood.knn_score(queries, bank, k), 1 - found[:, -1], atol=2e-6)


def distances(queries: Tensor, bank: Tensor, labels: Tensor) -> np.ndarray:
    queries, bank, labels = queries.double().numpy(), bank.double().numpy(), labels.numpy()
    means = {c: bank[labels == c].mean(axis=0) for c in np.unique(labels)}
    tied = EmpiricalCovariance(assume_centered=True).fit(bank - np.stack([means[c] for c in labels]))
    return np.min([tied.mahalanobis(queries - mean) for mean in means.values()], axis=0)


def test_mahalanobis_is_scikit_learns() -> None:
    queries, bank, labels = some()
    expected = distances(queries, bank, labels)
    np.testing.assert_allclose(ood.mahalanobis(queries, bank, labels), -expected, rtol=1e-9)
    names = torch.tensor([5, 70, 3, 1000])  # any numbers do
    np.testing.assert_allclose(ood.mahalanobis(queries, bank, names[labels]), -expected, rtol=1e-9)
    unlabelled = torch.cat([bank, 100 * torch.randn(9, 6)]), torch.cat([labels, torch.full((9,), -1)])
    np.testing.assert_allclose(ood.mahalanobis(queries, *unlabelled), -expected, rtol=1e-9)


def test_singular_covariances() -> None:
    queries, bank, labels = some()
    exact = ood.mahalanobis(queries, bank, labels)
    last_digits = torch.arange(150)[:, None] % 2
    for value in (0.0, 0.1, 1e6):
        constant = torch.full((150, 1), value)
        if value:
            constant = torch.where(last_digits == 1, constant.nextafter(torch.tensor(torch.inf)), constant)
        wider = torch.cat([bank, constant], dim=1)
        asked = torch.cat([queries, torch.randn(40, 1)], dim=1)  # what never varied says nothing
        torch.testing.assert_close(ood.mahalanobis(asked, wider, labels), exact, rtol=1e-6, atol=1e-6)
    twice = [torch.cat([x, x], dim=1) for x in (queries, bank)]
    torch.testing.assert_close(ood.mahalanobis(*twice, labels), exact, rtol=1e-6, atol=1e-6)
    units = torch.tensor([1e-12, 1e-3, 1.0, 1.0, 1e3, 1e6])
    torch.testing.assert_close(ood.mahalanobis(queries * units, bank * units, labels), exact, rtol=1e-5, atol=1e-5)
    few = ood.mahalanobis(queries, bank[:5], labels[:5])  # fewer images than features
    assert few.isfinite().all()
    for nothing in (bank[:1], torch.full_like(bank, 0.1)):
        assert ood.mahalanobis(queries, nothing, labels[: len(nothing)]).tolist() == [0] * 40


@pytest.mark.parametrize("rounded", [False, True])
def test_auroc_is_scikit_learns_ties_included(rounded: bool) -> None:
    known, unknown = (x.round() if rounded else x for x in scores())
    truth = [1] * 233 + [0] * 170
    expected = roc_auc_score(truth, torch.cat([known, unknown]))
    assert ood.auroc(known, unknown) == pytest.approx(expected, abs=1e-12)
    pairs = np.mean([(k > u) + 0.5 * (k == u) for k in known.tolist() for u in unknown.tolist()])
    assert ood.auroc(known, unknown) == pytest.approx(pairs, abs=1e-12)
    assert ood.auroc(known * 1e4, unknown * 1e4) == pytest.approx(expected, abs=1e-12)  # no sigmoid
    assert ood.auroc(torch.tensor([math.inf, 1.0]), torch.tensor([-math.inf, 1.0])) == 0.875


@pytest.mark.parametrize("known_images", [1, 7, 19, 20, 21, 100, 233])
@pytest.mark.parametrize("rounded", [False, True])
def test_fpr_is_that_of_the_roc_curve(known_images: int, rounded: bool) -> None:
    known, unknown = (x.round() if rounded else x for x in scores())
    known = known[:known_images]
    truth = [1] * known_images + [0] * 170
    false, true, _ = roc_curve(truth, torch.cat([known, unknown]), drop_intermediate=False)
    assert ood.fpr_at_95(known, unknown) == pytest.approx(false[true >= 0.95 - 1e-12].min(), abs=1e-12)


def test_fpr_is_near_that_of_an_interpolated_quantile() -> None:
    known, unknown = scores()
    other = np.mean(unknown.numpy() > np.quantile(known.numpy(), 0.05))
    assert ood.fpr_at_95(known, unknown) == pytest.approx(other, abs=2 / 170)


def test_scores_that_tell_nothing_look_like_it() -> None:
    same = torch.full((30,), 0.5)
    assert (ood.auroc(same, same), ood.fpr_at_95(same, same)) == (0.5, 1.0)
    for value in (ood.auroc, ood.fpr_at_95):
        assert math.isnan(value(same[:0], same))
        assert math.isnan(value(same, same[:0]))
        assert math.isnan(value(same, same * math.nan))
        assert value(same[:1].half(), same[:1].bfloat16()) in (0.5, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extremes(dtype: torch.dtype) -> None:
    queries, bank, labels = (x.to(dtype) if x.is_floating_point() else x for x in some())
    for logits in (
        queries * 1e4 if dtype != torch.float16 else queries * 5e3,
        torch.zeros(3, 2).to(dtype),
        queries[:, :1],
    ):
        assert ood.msp(logits).isfinite().all()
        assert ood.energy(logits).isfinite().all()
    for value in (ood.msp, ood.energy):
        assert value(queries[:0]).shape == (0,)
        assert value(queries * math.nan).isnan().all()
        with pytest.raises(ConfigError, match="logits: "):
            value(queries[:, :0])
    exact = ood.mahalanobis(some()[0], *some()[1:])
    np.testing.assert_allclose(ood.mahalanobis(queries, bank, labels), exact, rtol=0.1)
    for value in (lambda q, b: ood.knn_score(q, b), lambda q, b: ood.mahalanobis(q, b, labels)):
        assert value(queries[:0], bank).shape == (0,)
        assert value(queries[:1], torch.full_like(bank, 0.1)).isfinite().all()
        assert value(torch.zeros_like(queries), bank).isfinite().all()
        broken = queries.clone()
        broken[3] = math.nan
        assert value(broken, bank).isnan().nonzero().tolist() == [[3]]
        assert value(queries, bank * math.nan).isnan().all()
        with pytest.raises(ConfigError, match="embeddings: "):
            value(queries[:, 1:], bank)


def test_refusals() -> None:
    queries, bank, labels = some()
    for k in (0, 151):
        with pytest.raises(ConfigError, match=rf"k: {k} is given, but with 150"):
            ood.knn_score(queries, bank, k)
    with pytest.raises(ConfigError, match="bank: no training image"):
        ood.mahalanobis(queries, bank, torch.full_like(labels, -1))
    with pytest.raises(ConfigError, match="temperature: 0"):
        ood.energy(queries, 0)
