"""What probabilities are worth: NLL, Brier score, calibration error and its diagram, each class by itself."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError, MulticlassConfusionMatrix
from torchmetrics.functional.classification import multiclass_confusion_matrix

from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.metrics.states import MeanOverImages, gather_rows, joined

BINS = 15


class NLL(MeanOverImages):
    """The mean of -log softmax(logits)[label], in float64; NaN for no image, or for logits that are not finite."""

    higher_is_better = False

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds images: logits N,K of any floating dtype, labels N from 0 to K - 1.

        Raises:
            ConfigError: for shapes that do not fit, or labels that are none of the K classes.
        """
        self.add(_nll(*_checked(logits, labels)))


class Brier(MeanOverImages):
    """The mean over images of the sum over classes of (p - onehot)^2: 0 to 2 (Brier 1950), p the softmax.

    Half of it is what some libraries call Brier for two classes. NaN for no image, or for logits that are not finite.
    """

    higher_is_better = False

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """As in `NLL`."""
        self.add(_brier(*_checked(logits, labels)))


class CalibrationError(MulticlassCalibrationError):
    """Expected calibration error of the largest softmax probability (Guo et al. 2017, eq. 3), as torchmetrics has it.

    Bins of equal width, closed on the left. A confidence that float32 rounds to 1 is counted in the last bin:
    torchmetrics by itself (issue 3510) has a further bin for it, and would take logits in [0, 1] for probabilities.
    NaN for no image, or where a logit is not finite.

    Args:
        classes: K.
        bins: how many.
    """

    def __init__(self, classes: int, *, bins: int = BINS, **kwargs: Any) -> None:
        check_positive(bins=bins)
        super().__init__(max(classes, 2), n_bins=bins, norm="l1", **{"dist_sync_fn": gather_rows} | kwargs)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """As in `NLL`."""
        confidence, right = _confidence(*_checked(logits, labels))
        self.confidences.append(confidence)
        self.accuracies.append(right.float())

    def compute(self) -> Tensor:
        """A float32 scalar."""
        confidence = joined(self.confidences)
        if not len(confidence) or confidence.isnan().any():
            return torch.full((), math.nan, device=self.device)
        return super().compute()


class PerClassAccuracy(MulticlassConfusionMatrix):
    """The share of each class's images that are put right: K, NaN for classes without images.

    Args:
        classes: K.
    """

    def __init__(self, classes: int, **kwargs: Any) -> None:
        super().__init__(max(classes, 2), **kwargs)
        self.classes = classes

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """As in `NLL`."""
        logits, labels = _checked(logits, labels)
        super().update(logits.argmax(dim=1), labels)

    def compute(self) -> Tensor:
        """K float64."""
        return per_class(super().compute())[0][: self.classes]


class Reliability(NamedTuple):
    """Images by confidence, in bins of equal width from 0 to 1; of each bin:"""

    confidence: Tensor
    """The mean confidence, float64, NaN for a bin without images."""
    accuracy: Tensor
    """The share that is right, likewise."""
    count: Tensor
    """Images, int64."""

    @property
    def ece(self) -> float:
        """What `ece` gives; NaN for no image."""
        gaps = (self.accuracy - self.confidence).abs()[self.count > 0]
        return ((gaps * self.count[self.count > 0]).sum() / self.count.sum()).item()


def nll(logits: Tensor, labels: Tensor) -> Tensor:
    """`NLL` of logits N,K with labels N, a float64 scalar."""
    return _nll(*_checked(logits, labels)).mean()


def brier(logits: Tensor, labels: Tensor) -> Tensor:
    """`Brier` of logits N,K with labels N, a float64 scalar."""
    return _brier(*_checked(logits, labels)).mean()


def ece(logits: Tensor, labels: Tensor, *, bins: int = BINS) -> Tensor:
    """`CalibrationError` of logits N,K with labels N, a float32 scalar."""
    metric = CalibrationError(logits.shape[-1], bins=bins, sync_on_compute=False).to(logits.device)
    metric.update(logits, labels)
    return metric.compute()


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images of each class (rows) are taken for which (columns): K,K int64, by torchmetrics."""
    logits, labels = _checked(logits, labels)
    classes = logits.shape[1]
    said = logits.argmax(dim=1)
    return multiclass_confusion_matrix(said, labels, max(classes, 2))[:classes, :classes]


def per_class(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """From `confusion`'s K,K: each class's accuracy K (float64, NaN for classes without images) and its images K."""
    count = matrix.sum(dim=1)
    return matrix.diagonal().double() / count, count


def reliability(logits: Tensor, labels: Tensor, bins: int = BINS) -> Reliability:
    """The bins behind `CalibrationError`, for a diagram, on the CPU; all NaN where a logit is not finite.

    Args:
        logits: N,K.
        labels: N.
        bins: of equal width.

    Raises:
        ConfigError: for no bins, shapes that do not fit, or labels that are none of the K classes.
    """
    check_positive(bins=bins)
    confidence, right = (x.cpu() for x in _confidence(*_checked(logits, labels)))
    edges = torch.linspace(0, 1, bins + 1)
    places = torch.bucketize(confidence.nan_to_num(0), edges, right=True) - 1
    count = torch.bincount(places, minlength=bins)
    confidences, rights = (torch.bincount(places, x.double(), minlength=bins) for x in (confidence, right))
    broken = math.nan if confidence.isnan().any() else 0.0
    return Reliability(confidences / count + broken, rights / count + broken, count)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T above 0 that minimises the NLL of logits / T (Guo et al. 2017, section 4.2), in float64.

    The NLL has one minimum over log T, for it is convex in 1 / T. The search stays where the mean difference of the
    largest and the smallest logit, divided by T, is 0.01 to 100: logits that are all right would ask for T = 0, those
    that know nothing for infinity, and each gets its end of that range. 1 where no T is better than another: no image,
    one class, logits that are constant. NaN for logits that are not finite.

    Args:
        logits: N,K, of images that the network was not trained on.
        labels: N.

    Raises:
        ConfigError: for shapes that do not fit, or labels that are none of the K classes.
    """
    logits, labels = _checked(logits, labels)
    if not logits.isfinite().all():
        return math.nan
    if not logits.numel() or (spread := (logits.amax(dim=1) - logits.amin(dim=1)).mean().item()) == 0:
        return 1.0
    # -log softmax is log(1 + the others' shares over the label's), which keeps its digits where it is nearly 0
    behind = (logits - logits.gather(1, labels[:, None])).scatter(1, labels[:, None], -math.inf)

    def cost(log_temperature: float) -> float:
        others = (behind / math.exp(log_temperature)).logsumexp(dim=1)
        return torch.logaddexp(others, torch.zeros_like(others)).mean().item()

    bounds = (math.log(spread / 100), math.log(spread / 0.01))
    return math.exp(minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-7}).x)


def _checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Both as they are computed with: float64 and int64."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ConfigError(f"logits: {tuple(logits.shape)} with labels {tuple(labels.shape)}; they must be N,K and N")
    if len(labels) and not (labels.min() >= 0 and labels.max() < logits.shape[1]):
        found = f"{labels.min().item()} to {labels.max().item()}"
        raise ConfigError(f"labels: {found}, of logits with {logits.shape[1]} classes: 0 to {logits.shape[1] - 1}")
    return logits.detach().double(), labels.long()


def _nll(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _brier(logits: Tensor, labels: Tensor) -> Tensor:
    shares = logits.softmax(dim=1)
    return shares.scatter_add(1, labels[:, None], -torch.ones_like(shares[:, :1])).square().sum(dim=1)


def _confidence(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The largest softmax probability, float32 and below 1, and whether its class is the label."""
    logits = logits.float()
    if not logits.numel():
        return logits.new_zeros(0), labels == 0
    confidence, said = logits.softmax(dim=1).max(dim=1)
    return confidence.clamp(max=1 - 2**-24), said == labels
