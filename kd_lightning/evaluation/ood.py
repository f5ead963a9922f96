"""OutOfDistribution: detection of images whose class is not among the training classes."""

import re
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError, check_positive, nearest
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, prepare_other_data
from kd_lightning.evaluation.network_view import NetworkView, Predictions
from kd_lightning.metrics import ood

Score = Literal["knn", "msp", "energy", "mahalanobis"]
BINS = 30


class OutOfDistribution(Evaluator):
    """Logs the AUROC of known against unknown images as `test/ood_<score>_<data>`, and FPR95 as `..._fpr95`.

    All scores are higher for known images. `knn` is the cosine to the k-th nearest training image (Sun et al. 2022;
    TinTeM uses k = 1). `msp` is the largest softmax probability (Hendrycks & Gimpel 2017). `energy` is the log-sum-exp
    of the logits (Liu et al. 2020). `mahalanobis` is minus the squared Mahalanobis distance between the embedding and
    the nearest class mean of the training images (Lee et al. 2018). `msp` and `energy` are skipped if the classifier is
    not trained. `mahalanobis` is skipped if the images of the run have no labels.

    FPR95 is the share of unknown images above the threshold that 95 % of the known images exceed. The known images are
    the test images of the run. The unknown images are the test images of other data sets, resized to the image size of
    the run.

    Args:
        data: Data sets of unknown images. Their labels are used only for `exclude`.
        scores: Names of the scores. Default: all four.
        k: Number of neighbours for `knn`.
        exclude: Names of classes in `data` that are known classes. Images of these classes are skipped.
        teacher: Whether the teacher is also evaluated.

    Raises:
        ConfigError: if the data contain classes of the training images. Similar names only cause a warning.
    """

    needs_labels = False

    def __init__(
        self,
        *,
        data: list[ImageData],
        scores: list[Score] | None = None,
        k: int = 1,
        exclude: list[str] | None = None,
        teacher: bool = False,
    ) -> None:
        super().__init__(teacher=teacher)
        check_positive(**{"OutOfDistribution.k": k})
        if not data:
            raise ConfigError("OutOfDistribution.data: the list is empty; name at least one data set")
        names = [other.name for other in data]
        if len({*names}) < len(names):
            raise ConfigError(
                f"OutOfDistribution.data: {', '.join(names)} are given, but each name may occur only once; remove one"
            )
        self.unknown, self.k, self.exclude = data, k, {name.lower() for name in exclude or []}
        self.kinds: list[Score] = scores or ["knn", "msp", "energy", "mahalanobis"]

    def check(self, images: int) -> None:
        if self.k > images:
            raise ConfigError(
                f"OutOfDistribution.k: {self.k} is given, but there are only {images} training images; "
                f"give at most {images}"
            )

    def prepare(self, data: ImageData) -> None:
        for other in self.unknown:
            prepare_other_data(other)
            other.setup("test")
            self._check_classes(data, other)

        known = {name.lower() for other in self.unknown for name in other.class_names}
        named = all(other.class_names for other in self.unknown)
        if named and (strange := sorted(self.exclude - known)):
            near = nearest(strange[0], known)
            raise ConfigError(f"OutOfDistribution.exclude: no data set has a class {strange[0]!r}{near}")

    def _check_classes(self, data: ImageData, other: ImageData) -> None:
        known_names = {name.lower() for name in (*data.class_names, *data.class_ids)}
        other_names = [name for name in other.class_names if name.lower() not in self.exclude] if other.labeled else []
        if other.name == data.name:
            raise ConfigError(
                f"OutOfDistribution.data: {other.name} are the run's own images, so none is unknown; give other data"
            )
        if other.labeled and other.class_names and not other_names:
            raise ConfigError(
                f"OutOfDistribution.exclude: all classes of {other.name} are excluded; exclude fewer, or remove it"
            )
        if shared := [name for name in other_names if known_names & {part.strip().lower() for part in name.split(",")}]:
            raise ConfigError(
                f"OutOfDistribution.data: {other.name} has classes of the training images: {', '.join(shared[:5])}; "
                "name them in `exclude`, or choose other images"
            )
        known_words = {word for word in known_names if word.isalpha()}
        if close := [name for name in other_names if known_words & {*re.findall(r"[a-z]+", name.lower())}]:
            rank_zero_warn(
                f"OutOfDistribution.data: {len(close)} classes of {other.name} have names similar to known classes "
                f"({'; '.join(close[:4])}); `exclude` skips their images"
            )

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        result = EvaluationResult({}, {"ood": {}})
        known = self._scores(view, view.predictions())
        for other in self.unknown:
            unknown = self._scores(view, self._without_excluded(view.predictions("test", other), other))
            for kind, scores in unknown.items():
                name = f"{kind}_{other.name}"
                result.values[f"ood_{name}"] = float(ood.auroc(known[kind], scores))
                result.values[f"ood_{name}_fpr95"] = float(ood.fpr_at_95(known[kind], scores))
                result.details["ood"][name] = histograms(known[kind], scores)
        return result

    def _without_excluded(self, predictions: Predictions, other: ImageData) -> Predictions:
        excluded = [n for n, name in enumerate(other.class_names) if name.lower() in self.exclude]
        keep = ~torch.isin(predictions.labels, torch.tensor(excluded, device=predictions.labels.device))
        return Predictions(*(part[keep] for part in predictions))

    def _scores(self, view: NetworkView, predictions: Predictions) -> dict[Score, Tensor]:
        """Return the scores N of N images by kind. A higher score means that the image is more likely known."""
        result: dict[Score, Tensor] = {}
        for kind in self.kinds:
            if kind in ("msp", "energy") and view.knows_classes:
                result[kind] = getattr(ood, kind)(predictions.logits)
            elif kind == "knn":
                result[kind] = ood.knn_score(predictions.embedding, view.predictions("train").embedding, k=self.k)
            elif kind == "mahalanobis" and view.data.labeled:
                bank = view.predictions("train")
                result[kind] = ood.mahalanobis(predictions.embedding, bank.embedding, bank.labels)
        return result


def histograms(known: Tensor, unknown: Tensor) -> dict[str, list[float]]:
    """Return the numbers of known and of unknown images in 30 bins of equal width, and the edges of the bins.

    The bins reach from the 0.5 % to the 99.5 % quantile of all scores. The outer bins also contain the scores outside
    this range.
    """
    scores = [x.double().cpu() for x in (known, unknown)]
    low, high = torch.quantile(torch.cat(scores), torch.tensor([0.005, 0.995], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high if high > low else low + 1, BINS + 1, dtype=torch.float64)
    counts = [torch.histogram(x.clamp(edges[0], edges[-1]), edges).hist.tolist() for x in scores]
    return {"edges": edges.tolist(), "known": counts[0], "unknown": counts[1]}
