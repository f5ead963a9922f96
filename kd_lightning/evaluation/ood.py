"""OutOfDistribution: whether images of no known class are told from those of the data."""

import re
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError, check_positive, nearest
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, make_ready
from kd_lightning.evaluation.network_view import NetworkView, Predictions
from kd_lightning.metrics import ood

Score = Literal["knn", "msp", "energy", "mahalanobis"]
BINS = 30


class OutOfDistribution(Evaluator):
    """Logs `test/ood_<score>_<data>`, the AUROC of known against unknown images, and `..._fpr95`.

    Scores: `knn`, the cosine to the k-th nearest training image (TinTeM's, with k = 1; Sun et al. 2022); `msp`, the
    largest softmax probability (Hendrycks & Gimpel 2017); `energy`, the log-sum-exp of the logits (Liu et al. 2020);
    `mahalanobis`, the distance to the nearest class mean of the training images (Lee et al. 2018, on the embedding).
    FPR95 is the share of unknown images that pass where 95 % of the known do. Known are the run's test images; unknown
    those of other data, their test images, brought to the same size. Scores of logits are left out where the classifier
    is not trained.

    Args:
        data: data sets of unknown images; labels are not read.
        scores: which.
        k: of `knn`.
        exclude: names of classes whose images are left out of `data`, since they are known after all.
        teacher: evaluate the teacher too.

    Raises:
        ConfigError: for data that hold classes of the run's own; those that only sound alike are warned of.
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
            raise ConfigError("OutOfDistribution.data: name one data set at least")
        names = [other.name for other in data]
        if len({*names}) < len(names):
            raise ConfigError(f"OutOfDistribution.data: {', '.join(names)}: each name may come once")
        self.unknown, self.k, self.exclude = data, k, {name.lower() for name in exclude or []}
        self.kinds: list[Score] = scores or ["knn", "msp", "energy", "mahalanobis"]

    def check(self, images: int) -> None:
        if self.k > images:
            raise ConfigError(f"OutOfDistribution.k: the {self.k}th nearest of {images} training images")

    def prepare(self, data: ImageData) -> None:
        for other in self.unknown:
            make_ready(other)
            other.setup("test")
            self._check_classes(data, other)

        known = {name.lower() for other in self.unknown for name in other.class_names}
        named = all(other.class_names for other in self.unknown)
        if named and (strange := sorted(self.exclude - known)):
            near = nearest(strange[0], known)
            raise ConfigError(f"OutOfDistribution.exclude: no data have a class {strange[0]!r}{near}")

    def _check_classes(self, data: ImageData, other: ImageData) -> None:
        ours = {name.lower() for name in (*data.class_names, *data.class_ids)}
        theirs = [name for name in other.class_names if name.lower() not in self.exclude] if other.labeled else []
        if other.name == data.name:
            raise ConfigError(f"OutOfDistribution.data: {other.name} are the run's own images, so none is unknown")
        if other.labeled and other.class_names and not theirs:
            raise ConfigError(f"OutOfDistribution.exclude: all classes of {other.name} are left out")
        if shared := [name for name in theirs if ours & {part.strip().lower() for part in name.split(",")}]:
            raise ConfigError(
                f"OutOfDistribution.data: {other.name} has classes of the training images: {', '.join(shared[:5])}; "
                "leave them out by `exclude`, or choose other images"
            )
        words = {word for word in ours if word.isalpha()}
        if close := [name for name in theirs if words & {*re.findall(r"[a-z]+", name.lower())}]:
            rank_zero_warn(
                f"OutOfDistribution.data: {len(close)} classes of {other.name} sound like known ones "
                f"({'; '.join(close[:4])}); `exclude` leaves them out"
            )

    def evaluate(self, eyes: NetworkView) -> EvaluationResult:
        found = EvaluationResult({}, {"ood": {}})
        known = self._scores(eyes, eyes.seen())
        for other in self.unknown:
            unknown = self._scores(eyes, self._kept(eyes.seen("test", other), other))
            for kind, theirs in unknown.items():
                name = f"{kind}_{other.name}"
                found.values[f"ood_{name}"] = float(ood.auroc(known[kind], theirs))
                found.values[f"ood_{name}_fpr95"] = float(ood.fpr_at_95(known[kind], theirs))
                found.details["ood"][name] = histograms(known[kind], theirs)
        return found

    def _kept(self, seen: Predictions, other: ImageData) -> Predictions:
        left_out = [n for n, name in enumerate(other.class_names) if name.lower() in self.exclude]
        keep = ~torch.isin(seen.labels, torch.tensor(left_out, device=seen.labels.device))
        return Predictions(*(part[keep] for part in seen))

    def _scores(self, eyes: NetworkView, seen: Predictions) -> dict[Score, Tensor]:
        """Of N images, by kind: N, higher for what is known."""
        found: dict[Score, Tensor] = {}
        for kind in self.kinds:
            if kind in ("msp", "energy") and eyes.knows_classes:
                found[kind] = getattr(ood, kind)(seen.logits)
            elif kind == "knn":
                found[kind] = ood.knn_score(seen.embedding, eyes.seen("train").embedding, k=self.k)
            elif kind == "mahalanobis" and eyes.data.labeled:
                known = eyes.seen("train")
                found[kind] = ood.mahalanobis(seen.embedding, known.embedding, known.labels)
        return found


def histograms(known: Tensor, unknown: Tensor) -> dict[str, list[float]]:
    """Counts of both in 30 bins of equal width, from the 0.5 % to the 99.5 % quantile; the outermost take the rest."""
    scores = [x.double().cpu() for x in (known, unknown)]
    low, high = torch.quantile(torch.cat(scores), torch.tensor([0.005, 0.995], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high if high > low else low + 1, BINS + 1, dtype=torch.float64)
    counts = [torch.histogram(x.clamp(edges[0], edges[-1]), edges).hist.tolist() for x in scores]
    return {"edges": edges.tolist(), "known": counts[0], "unknown": counts[1]}
