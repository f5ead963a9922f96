"""Metrics of predicted probabilities: NLL, Brier score, calibration error, reliability diagram, class accuracies."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError, MulticlassConfusionMatrix
from torchmetrics.functional.classification import multiclass_confusion_matrix

from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.metrics.states import MeanOverImages, concatenate, gather_rows

BINS = 15


class NLL(MeanOverImages):
    """Mean of -log softmax(logits)[label], in float64. It is NaN without images, or if a logit is not finite."""

    higher_is_better = False

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add images: logits N,K of any floating dtype, labels N from 0 to K - 1.

        Raises:
            ConfigError: if the shapes do not match, or if a label is not one of the K classes.
        """
        self.add(_nll(*_checked(logits, labels)))


class Brier(MeanOverImages):
    """Mean over images of the sum over classes of (p - onehot)^2, from 0 to 2 (Brier 1950). p is the softmax.

    For two classes, some libraries define the score as half of this value. The score is NaN without images, or if a
    logit is not finite.
    """

    higher_is_better = False

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add images, as in `NLL`."""
        self.add(_brier(*_checked(logits, labels)))


class CalibrationError(MulticlassCalibrationError):
    """Expected calibration error of the largest softmax probability (Guo et al. 2017, eq. 3), based on torchmetrics.

    The bins have equal width and are closed on the left. A confidence that float32 rounds to 1 is counted in the last
    bin. torchmetrics has an additional bin for such confidences (issue 3510), and treats logits in [0, 1] as
    probabilities. The result is NaN without images, or if a logit is not finite.

    Args:
        classes: Number of classes K.
        bins: Number of bins.
    """

    def __init__(self, classes: int, *, bins: int = BINS, **kwargs: Any) -> None:
        check_positive(bins=bins)
        super().__init__(max(classes, 2), n_bins=bins, norm="l1", **{"dist_sync_fn": gather_rows} | kwargs)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add images, as in `NLL`."""
        confidence, correct = _confidence(*_checked(logits, labels))
        self.confidences.append(confidence)
        self.accuracies.append(correct.float())

    def compute(self) -> Tensor:
        """Return a float32 scalar."""
        confidence = concatenate(self.confidences)
        if not len(confidence) or confidence.isnan().any():
            return torch.full((), math.nan, device=self.device)
        return super().compute()


class PerClassAccuracy(MulticlassConfusionMatrix):
    """Accuracy of each of K classes. It is NaN for a class without images.

    Args:
        classes: Number of classes K.
    """

    def __init__(self, classes: int, **kwargs: Any) -> None:
        super().__init__(max(classes, 2), **kwargs)
        self.classes = classes

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add images, as in `NLL`."""
        logits, labels = _checked(logits, labels)
        super().update(logits.argmax(dim=1), labels)

    def compute(self) -> Tensor:
        """Return K accuracies, float64."""
        return per_class(super().compute())[0][: self.classes]


class Reliability(NamedTuple):
    """Statistics of images in bins of their confidence. The bins have equal width, from 0 to 1."""

    confidence: Tensor
    """Mean confidence of each bin, float64, NaN for a bin without images."""
    accuracy: Tensor
    """Accuracy of each bin, float64, NaN for a bin without images."""
    count: Tensor
    """Number of images in each bin, int64."""

    @property
    def ece(self) -> float:
        """Expected calibration error. The function `ece` returns the same value. It is NaN without images."""
        gaps = (self.accuracy - self.confidence).abs()[self.count > 0]
        return ((gaps * self.count[self.count > 0]).sum() / self.count.sum()).item()


def nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Return `NLL` of logits N,K with labels N, a float64 scalar."""
    return _nll(*_checked(logits, labels)).mean()


def brier(logits: Tensor, labels: Tensor) -> Tensor:
    """Return `Brier` of logits N,K with labels N, a float64 scalar."""
    return _brier(*_checked(logits, labels)).mean()


def ece(logits: Tensor, labels: Tensor, *, bins: int = BINS) -> Tensor:
    """Return `CalibrationError` of logits N,K with labels N, a float32 scalar."""
    metric = CalibrationError(logits.shape[-1], bins=bins, sync_on_compute=False).to(logits.device)
    metric.update(logits, labels)
    return metric.compute()


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Return torchmetrics' confusion matrix K,K int64, whose rows are labels and whose columns are predictions."""
    logits, labels = _checked(logits, labels)
    classes = logits.shape[1]
    prediction = logits.argmax(dim=1)
    return multiclass_confusion_matrix(prediction, labels, max(classes, 2))[:classes, :classes]


def per_class(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the accuracy and the number of images of each class from a confusion matrix.

    The accuracies K are float64. The accuracy of a class without images is NaN.
    """
    count = matrix.sum(dim=1)
    return matrix.diagonal().double() / count, count


def reliability(logits: Tensor, labels: Tensor, bins: int = BINS) -> Reliability:
    """Return the bins of `CalibrationError` for a diagram, on the CPU; all means are NaN if a logit is not finite.

    Args:
        logits: N,K.
        labels: N.
        bins: Number of bins of equal width.

    Raises:
        ConfigError: if there are no bins, if the shapes do not match, or if a label is not one of the K classes.
    """
    check_positive(bins=bins)
    confidence, correct = (x.cpu() for x in _confidence(*_checked(logits, labels)))
    edges = torch.linspace(0, 1, bins + 1)
    bin_indices = torch.bucketize(confidence.nan_to_num(0), edges, right=True) - 1
    count = torch.bincount(bin_indices, minlength=bins)
    confidences, correct_counts = (
        torch.bincount(bin_indices, x.double(), minlength=bins) for x in (confidence, correct)
    )
    broken = math.nan if confidence.isnan().any() else 0.0
    return Reliability(confidences / count + broken, correct_counts / count + broken, count)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature T above 0 that minimises the NLL of logits / T (Guo et al. 2017, section 4.2), in float64.

    The NLL has one minimum over log T, because the NLL is convex in 1 / T. T is bounded: after division by T, the mean
    difference between the largest and the smallest logit is 0.01 to 100. Without bounds, the best T would be 0 if all
    predictions are correct, and infinity if the logits contain no information. The result is then one of the bounds.
    The result is 1 if T has no effect (no images, one class, or constant logits). It is NaN if a logit is not finite.

    Args:
        logits: Logits N,K of images on which the network was not trained.
        labels: Labels N.

    Raises:
        ConfigError: if the shapes do not match, or if a label is not one of the K classes.
    """
    logits, labels = _checked(logits, labels)
    if not logits.isfinite().all():
        return math.nan
    if not logits.numel() or (logit_range := (logits.amax(dim=1) - logits.amin(dim=1)).mean().item()) == 0:
        return 1.0
    # -log softmax(label) = log(1 + sum over the other classes of exp(difference)): precise where it is nearly 0
    differences = (logits - logits.gather(1, labels[:, None])).scatter(1, labels[:, None], -math.inf)

    def cost(log_temperature: float) -> float:
        others = (differences / math.exp(log_temperature)).logsumexp(dim=1)
        return torch.logaddexp(others, torch.zeros_like(others)).mean().item()

    bounds = (math.log(logit_range / 100), math.log(logit_range / 0.01))
    return math.exp(minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-7}).x)


def _checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits as float64 and labels as int64. Raise an error for wrong shapes or labels."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} with labels {tuple(labels.shape)}"
        raise ConfigError(f"logits: the shapes are {shapes}, but they must be N,K and N")
    if len(labels) and not (labels.min() >= 0 and labels.max() < logits.shape[1]):
        label_range = f"{labels.min().item()} to {labels.max().item()}"
        raise ConfigError(
            f"labels: {label_range}; with {logits.shape[1]} classes they must be 0 to {logits.shape[1] - 1}"
        )
    return logits.detach().double(), labels.long()


def _nll(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _brier(logits: Tensor, labels: Tensor) -> Tensor:
    shares = logits.softmax(dim=1)
    return shares.scatter_add(1, labels[:, None], -torch.ones_like(shares[:, :1])).square().sum(dim=1)


def _confidence(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest softmax probability (float32, below 1) of each image, and whether its class is the label."""
    logits = logits.float()
    if not logits.numel():
        return logits.new_zeros(0), labels == 0
    confidence, prediction = logits.softmax(dim=1).max(dim=1)
    return confidence.clamp(max=1 - 2**-24), prediction == labels
