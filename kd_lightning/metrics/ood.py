"""Scores of how well known an image looks, higher for what is known, and how well they tell the unknown apart."""

import math

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.metrics.cosines import cosine_rows


def msp(logits: Tensor) -> Tensor:
    """The largest softmax probability of logits N,K (Hendrycks & Gimpel 2017): N float64, in which fewer are 1."""
    _check_logits(logits)
    return logits.double().softmax(dim=1).amax(dim=1)


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T logsumexp(logits / T) of logits N,K, the negative energy (Liu et al. 2020, eq. 4): N float64."""
    check_positive(temperature=temperature)
    _check_logits(logits)
    return temperature * (logits.double() / temperature).logsumexp(dim=1)


def knn_score(queries: Tensor, bank: Tensor, k: int = 1) -> Tensor:
    """The k-th largest cosine to the training images: N float32.

    In the order of Sun et al. 2022, who take the distance of unit vectors; with k = 1 it is TinTeM's. NaN for a query
    that is not finite, and for all where a training image is not.

    Args:
        queries: N,D.
        bank: M,D, the training images.
        k: 1 to M.

    Raises:
        ConfigError: for k out of range, or shapes that do not fit.
    """
    if not 1 <= k <= len(bank):
        raise ConfigError(f"k: {k} neighbours of {len(bank)} training images; it can be 1 to {len(bank)}")
    parts = [cosines.topk(k, dim=1).values[:, -1] for _, cosines in cosine_rows(queries, bank)]
    return torch.cat(parts) if parts else torch.zeros(0, device=queries.device)


def mahalanobis(queries: Tensor, bank: Tensor, labels: Tensor) -> Tensor:
    """Minus the squared Mahalanobis distance to the nearest class mean: N float64.

    One covariance for all classes, of the training images' differences from their class means, divided by M (Lee et al.
    2018, eq. 1, on one layer and without their input noise). Singular ones are inverted by the pseudo-inverse:
    directions in which no class varies count nothing, which are features whose deviation is below float32's own
    rounding, and eigenvalues of the rest's correlation matrix below 1e-10 of the largest. With no direction left all
    scores are 0. NaN for a query that is not finite, and for all where a training image is not.

    Args:
        queries: N,D.
        bank: M,D, the training images.
        labels: M, of the training images; those without one (-1) are left out.

    Raises:
        ConfigError: for shapes that do not fit, or no training image with a label.
    """
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1] or labels.shape != bank.shape[:1]:
        shapes = f"{tuple(queries.shape)}, {tuple(bank.shape)}, {tuple(labels.shape)}"
        raise ConfigError(f"embeddings: {shapes}; they must be N,D, M,D and labels M")
    queries, bank = queries.detach().double(), bank.detach().double()[labels >= 0]
    if not len(bank):
        raise ConfigError("bank: no training image with a label, so there is no class mean")
    if not bank.isfinite().all():
        return torch.full((len(queries),), math.nan, dtype=torch.float64, device=queries.device)
    largest, shift = bank.abs().amax(dim=0), bank.mean(dim=0)
    queries, bank = queries - shift, bank - shift
    classes, members = labels[labels >= 0].unique(return_inverse=True)
    means = torch.zeros(len(classes), bank.shape[1], dtype=bank.dtype, device=bank.device).index_add_(0, members, bank)
    means /= members.bincount()[:, None]
    whitener = _whitener(bank - means[members], largest)
    queries, means = queries @ whitener, means @ whitener
    norms = queries.square().sum(dim=1, keepdim=True) + means.square().sum(dim=1)
    return -(norms - 2 * queries @ means.T).clamp(min=0).amin(dim=1)


def _whitener(deviations: Tensor, largest: Tensor) -> Tensor:
    """W with |x W|^2 = x^T pinv(covariance) x: D,R, for M,D deviations of features with these largest values."""
    spread = deviations.square().mean(dim=0).sqrt()
    varies = spread > torch.finfo(torch.float32).eps * largest
    scaled = deviations / torch.where(varies, spread, torch.inf)  # the distance does not depend on features' units
    values, vectors = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    kept = values > 1e-10 * values[-1:].clamp(min=torch.finfo(values.dtype).tiny)
    return (vectors[:, kept] / values[kept].sqrt()) / torch.where(varies, spread, torch.inf)[:, None]


def auroc(known: Tensor, unknown: Tensor) -> float:
    """How often a known image has a higher score than an unknown one, ties counting half; NaN for none, or NaN scores.

    Computed by scikit-learn from the scores' ranks, so that scores may have any size or be infinite. (torchmetrics
    applies a sigmoid to scores outside [0, 1], which makes large ones equal.)

    Args:
        known: N scores.
        unknown: M scores.
    """
    scores = torch.cat([known.detach().double(), unknown.detach().double()]).cpu()
    if not len(known) or not len(unknown) or scores.isnan().any():
        return math.nan
    truth = torch.arange(len(scores)) < len(known)
    ranks = scores.unique(return_inverse=True)[1]  # equal scores share one; scipy 1.11's have a NaN for inf and -inf
    from sklearn.metrics import roc_auc_score  # takes a second

    return float(roc_auc_score(truth.numpy(), ranks.numpy()))


def fpr_at_95(known: Tensor, unknown: Tensor) -> float:
    """The share of unknown images that pass the threshold which 95 % of the known ones pass, or more.

    The threshold is the largest known score that at least 95 % of the known reach; nothing is interpolated, and an
    image that ties with it passes. It is the lowest false positive rate of the ROC curve at a true positive rate of
    0.95 or more. (A strict > of an interpolated 5 % quantile, as in TinTeM, differs only in unknown scores between two
    known ones, and by ties: scores that are all the same would let no unknown pass and look perfect; here all pass.)
    NaN for none, or NaN scores.

    Args:
        known: N scores.
        unknown: M scores.
    """
    known, unknown = known.detach().double(), unknown.detach().double()
    if not len(known) or not len(unknown) or known.isnan().any() or unknown.isnan().any():
        return math.nan
    threshold = known.sort().values[len(known) // 20]  # that many are below: 5 %, rounded down
    return (unknown >= threshold.to(unknown.device)).double().mean().item()


def _check_logits(logits: Tensor) -> None:
    if logits.ndim != 2 or not logits.shape[1]:
        raise ConfigError(f"logits: {tuple(logits.shape)}; they must be N,K with a class at least")
