"""Scores for out-of-distribution detection, which are higher for known images, and metrics of these scores."""

import math

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.metrics.cosines import cosine_rows


def msp(logits: Tensor) -> Tensor:
    """Return the largest softmax probability of logits N,K (Hendrycks & Gimpel 2017): N float64."""
    _check_logits(logits)
    return logits.double().softmax(dim=1).amax(dim=1)  # float64, so that fewer are rounded to 1


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T logsumexp(logits / T) of logits N,K, the negative energy (Liu et al. 2020, eq. 4): N float64."""
    check_positive(temperature=temperature)
    _check_logits(logits)
    return temperature * (logits.double() / temperature).logsumexp(dim=1)


def knn_score(queries: Tensor, bank: Tensor, k: int = 1) -> Tensor:
    """Return the k-th largest cosine to the training images: N float32.

    This score ranks images in the same order as the distance between unit vectors of Sun et al. 2022. TinTeM uses
    k = 1. The score of a query that is not finite is NaN. If a training image is not finite, all scores are NaN.

    Args:
        queries: Embeddings of the images to score, N,D.
        bank: Embeddings of the training images, M,D.
        k: Rank of the cosine, 1 to M.

    Raises:
        ConfigError: if k is out of range, or if the shapes do not match.
    """
    if not 1 <= k <= len(bank):
        raise ConfigError(f"k: {k} is given, but with {len(bank)} training images k must be 1 to {len(bank)}")
    parts = [cosines.topk(k, dim=1).values[:, -1] for _, cosines in cosine_rows(queries, bank)]
    return torch.cat(parts) if parts else torch.zeros(0, device=queries.device)


def mahalanobis(queries: Tensor, bank: Tensor, labels: Tensor) -> Tensor:
    """Return minus the squared Mahalanobis distance to the nearest class mean: N float64.

    All classes share one covariance: the covariance of the differences between the training images and their class
    means, divided by M (Lee et al. 2018, eq. 1, on one layer and without their input noise). If the covariance is
    singular, its pseudo-inverse is used, which ignores directions without variation. There are two kinds of such
    directions: features whose deviation is below the rounding error of float32, and eigenvectors of the remaining
    correlation matrix whose eigenvalue is below 1e-10 of the largest eigenvalue. If no direction remains, all scores
    are 0. The score of a query that is not finite is NaN. If a training image is not finite, all scores are NaN.

    Args:
        queries: Embeddings of the images to score, N,D.
        bank: Embeddings of the training images, M,D.
        labels: Labels of the M training images. Images without a label (-1) are ignored.

    Raises:
        ConfigError: if the shapes do not match, or if no training image has a label.
    """
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1] or labels.shape != bank.shape[:1]:
        shapes = f"{tuple(queries.shape)}, {tuple(bank.shape)}, {tuple(labels.shape)}"
        raise ConfigError(f"embeddings: the shapes are {shapes}, but they must be N,D, M,D and (for the labels) M")
    queries, bank = queries.detach().double(), bank.detach().double()[labels >= 0]
    if not len(bank):
        raise ConfigError("bank: no training image has a label, so there is no class mean")
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
    """Return W (D,R) with |x W|^2 = x^T pinv(covariance) x, for deviations M,D.

    `largest` (D) contains the largest absolute value of each feature.
    """
    deviation = deviations.square().mean(dim=0).sqrt()
    varies = deviation > torch.finfo(torch.float32).eps * largest
    scaled = deviations / torch.where(varies, deviation, torch.inf)  # the distance does not depend on features' units
    values, vectors = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    nonzero = values > 1e-10 * values[-1:].clamp(min=torch.finfo(values.dtype).tiny)
    return (vectors[:, nonzero] / values[nonzero].sqrt()) / torch.where(varies, deviation, torch.inf)[:, None]


def auroc(known: Tensor, unknown: Tensor) -> float:
    """Return the probability that a known image has a higher score than an unknown image. Ties count half.

    scikit-learn computes the probability from the ranks of the scores. Scores may therefore be large or infinite.
    torchmetrics would apply a sigmoid to scores outside [0, 1], which makes large scores equal. The result is NaN if a
    set is empty, or if a score is NaN.

    Args:
        known: Scores N of known images.
        unknown: Scores M of unknown images.
    """
    scores = torch.cat([known.detach().double(), unknown.detach().double()]).cpu()
    if not len(known) or not len(unknown) or scores.isnan().any():
        return math.nan
    truth = torch.arange(len(scores)) < len(known)
    from sklearn.metrics import roc_auc_score  # its import takes a second

    ranks = scores.unique(return_inverse=True)[1]  # equal for equal scores; scipy 1.11's ranks are NaN for inf and -inf
    return float(roc_auc_score(truth.numpy(), ranks.numpy()))


def fpr_at_95(known: Tensor, unknown: Tensor) -> float:
    """Return the share of unknown images at or above the threshold that at least 95 % of the known images reach.

    The threshold is the largest score of a known image that at least 95 % of the known images reach, without
    interpolation. An image whose score equals the threshold passes. The result is the lowest false positive rate of the
    ROC curve at a true positive rate of 0.95 or more. It is NaN if a set is empty, or if a score is NaN.

    TinTeM uses an interpolated 5 % quantile and a strict >. The two results differ only for ties, and for unknown
    scores between two known scores. If all scores are equal, no unknown image passes in TinTeM, and the result looks
    perfect. Here all unknown images pass.

    Args:
        known: Scores N of known images.
        unknown: Scores M of unknown images.
    """
    known, unknown = known.detach().double(), unknown.detach().double()
    if not len(known) or not len(unknown) or known.isnan().any() or unknown.isnan().any():
        return math.nan
    threshold = known.sort().values[len(known) // 20]  # 5 % of the images, rounded down, are below
    return (unknown >= threshold.to(unknown.device)).double().mean().item()


def _check_logits(logits: Tensor) -> None:
    if logits.ndim != 2 or not logits.shape[1]:
        raise ConfigError(f"logits: the shape is {tuple(logits.shape)}, but it must be N,K with at least one class")
