"""Descriptions of the metrics: titles, axes, units, and whether higher or lower values are better."""

import math
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

Better = Literal["higher", "lower"]
TEACHER = "_teacher"
"""Suffix of the names of the teacher's metrics."""
AXES = (
    "accuracy",
    "calibration",
    "faithfulness",
    "representation",
    "out-of-distribution",
    "robustness",
    "privacy",
    "cost",
    "other",
)
MAIN_METRICS = (
    "test/acc",
    "test/linear",
    "test/knn",
    "val/acc",
    "val/linear",
    "val/knn",
    "val/neighbors",
    "val/cosine",
)
"""The first of these metrics that exists is the default main metric of a comparison."""


class Metric(NamedTuple):
    """Description of a metric."""

    name: str
    """Name in results.json."""
    title: str
    axis: str
    """One of AXES."""
    unit: str
    """`%` (values are shares, displayed in per cent), `ms`, `M` (millions), ...; '' for a number without a unit."""
    better: Better | None
    key: bool
    """Whether the metric has its own plot; other metrics appear only in tables."""

    @property
    def scale(self) -> float:
        """Factor by which a value is multiplied to convert it to its unit."""
        return {"%": 100.0, "M": 1e-6, "G": 1e-9, "min": 1 / 60}.get(self.unit, 1.0)

    @property
    def heading(self) -> str:
        """The title with the unit, and an arrow that shows whether higher or lower values are better."""
        unit = f", {self.unit}" if self.unit else ""
        return f"{self.title}{unit}" + {"higher": " ↑", "lower": " ↓", None: ""}[self.better]

    def show(self, value: float, *, signed: bool = False, bare: bool = False) -> str:
        """Return the value as text with its unit, or `-` if there is no value; `bare` omits the unit."""
        if value is None or not math.isfinite(value):
            return "-"
        value *= self.scale
        digits = self.digits(value)
        text = f"{value:{'+' if signed else ''},.{digits}f}"
        if float(text.replace(",", "")) == 0:
            text = text.lstrip("+-")  # never show -0.0
        return text if bare or not self.unit else f"{text} {self.unit}"

    def digits(self, shown_value: float) -> int:
        """Return the number of decimal places for a displayed value."""
        if self.unit == "%":
            return 1
        if shown_value == 0 or abs(shown_value) >= 1000:
            return 0
        return min(6, max(0, 2 - math.floor(math.log10(abs(shown_value)))))


_EXACT = {
    "test/acc": ("accuracy", "accuracy", "%", "higher", True),
    "test/top5": ("top-5 accuracy", "accuracy", "%", "higher", False),
    "test/acc_ema": ("accuracy of the averaged weights", "accuracy", "%", "higher", False),
    "val/acc": ("validation accuracy", "accuracy", "%", "higher", False),
    "test/ce": ("cross-entropy", "calibration", "", "lower", False),
    "test/nll": ("negative log-likelihood", "calibration", "", "lower", True),
    "test/nll_scaled": ("negative log-likelihood, scaled", "calibration", "", "lower", False),
    "test/brier": ("Brier score", "calibration", "", "lower", False),
    "test/ece": ("calibration error", "calibration", "%", "lower", True),
    "test/ece_scaled": ("calibration error, temperature-scaled", "calibration", "%", "lower", True),
    "test/agreement": ("agreement with the teacher", "faithfulness", "%", "higher", True),
    "test/agreement_teacher_errs": ("agreement where the teacher errs", "faithfulness", "%", "higher", True),
    "test/kl": ("KL divergence from the teacher", "faithfulness", "", "lower", True),
    "test/logit_cosine": ("cosine to the teacher's logits", "faithfulness", "", "higher", False),
    "test/cosine": ("cosine of the vectors that the loss aligns", "faithfulness", "", "higher", False),
    "test/neighbors": ("neighbours shared with the teacher", "faithfulness", "%", "higher", False),
    "test/cka": ("CKA with the teacher", "faithfulness", "", "higher", True),
    "test/sp_distance": ("distance of similarity matrices", "faithfulness", "", "lower", False),
    "test/knn": ("10 nearest neighbours", "representation", "%", "higher", True),
    "test/linear": ("linear probe", "representation", "%", "higher", True),
    "test/map": ("retrieval, mean average precision", "representation", "%", "higher", True),
    "test/corrupted": ("accuracy on corrupted images", "robustness", "%", "higher", True),
    "test/corrupted_relative": ("corruption error, relative to the teacher's", "robustness", "", "lower", False),
    "cost/parameters": ("parameters", "cost", "M", "lower", True),
    "cost/macs": ("multiply-adds per image", "cost", "G", "lower", True),
    "cost/megabytes": ("size on disk", "cost", "MB", "lower", False),
    "seconds": ("time of training", "cost", "min", "lower", True),
}
_PATTERNS = (
    (r"test/neighbors_(\d+)", "neighbours shared with the teacher, {} nearest", "faithfulness", "%", "higher", "10"),
    (r"test/knn_(\d+)", "{} nearest neighbours", "representation", "%", "higher", ""),
    (r"test/few_shot_(\d+)", "few-shot classifier, {} images per class", "representation", "%", "higher", "5"),
    (r"test/recall_(\d+)", "retrieval, recall at {}", "representation", "%", "higher", "1"),
    (r"test/transfer_(.+)", "linear probe on {}", "representation", "%", "higher", "*"),
    (r"test/ood_([a-z]+)_(.+)_fpr95", "FPR at 95 % TPR against {1}, by {0}", "out-of-distribution", "%", "lower", ""),
    (r"test/ood_([a-z]+)_(.+)", "AUROC against {1}, by {0}", "out-of-distribution", "%", "higher", "*"),
    (r"test/exit_(\d+)", "accuracy at exit {}", "accuracy", "%", "higher", ""),
    (r"test/shift_(.+)", "accuracy on {}", "robustness", "%", "higher", "*"),
    (r"test/membership_([a-z]+)_auroc", "AUROC of membership inference by {}", "privacy", "%", "lower", "loss"),
    (r"test/membership_([a-z]+)_tpr_at_1_fpr", "members found at 1 % FPR, by {}", "privacy", "%", "lower", ""),
    (r"cost/latency_ms_(\d+)", "latency, batch {}", "cost", "ms", "lower", "*"),
    (r"cost/images_per_second_(\d+)", "images per second, batch {}", "cost", "", "higher", ""),
    (r"cost/exit_(\d+)_macs", "multiply-adds per image up to exit {}", "cost", "G", "lower", ""),
    (r"cost/exit_(\d+)_parameters", "parameters up to exit {}", "cost", "M", "lower", ""),
    (r"val/(?:neighbors|acc|exit|knn|linear|agreement|cosine)\w*", "{0}", "accuracy", "%", "higher", ""),
)


def describe(name: str) -> Metric:
    """Return the description of a metric by its name in results.json; unknown metrics are on the axis `other`.

    A metric of the teacher (`test/acc_teacher`) has the description of the student's metric, and a title that begins
    with `teacher's`.
    """
    if name.endswith(TEACHER) and name != TEACHER:
        student_metric = describe(name.removesuffix(TEACHER))
        return student_metric._replace(name=name, title=f"teacher's {student_metric.title}", key=False)
    if name in _EXACT:
        return Metric(name, *_EXACT[name])
    for pattern, title, axis, unit, better, keys in _PATTERNS:
        if match := re.fullmatch(pattern, name):
            parts = match.groups() or (f"validation {name.removeprefix('val/').replace('_', ' ')}",)
            return Metric(name, title.format(*parts), axis, unit, better, keys == "*" or parts[0] == keys)
    return Metric(name, name, "other", "", None, False)


def is_teacher_metric(name: str) -> bool:
    """Return whether a metric is one of the teacher."""
    return name.endswith(TEACHER) or name.startswith("teacher/")


def ordered(names: Iterable[str]) -> list[Metric]:
    """Return the descriptions of the student's metrics among some names, sorted by axis."""
    known = [*_EXACT]
    metrics = [describe(name) for name in set(names) if not is_teacher_metric(name)]

    def place(metric: Metric) -> tuple:
        position = known.index(metric.name) if metric.name in known else len(known)
        parts = [int(part) if part.isdecimal() else 0 for part in re.split(r"(\d+)", metric.name)]
        return AXES.index(metric.axis), not metric.key, position, re.sub(r"\d+", "", metric.name), parts

    return sorted(metrics, key=place)


def main_metric(names: Iterable[str]) -> str | None:
    """Return the main metric among some names: the first of MAIN_METRICS, otherwise a test metric, otherwise any."""
    names = [name for name in names if not is_teacher_metric(name)]
    tested = sorted(name for name in names if name.startswith("test/"))
    return next((name for name in (*MAIN_METRICS, *tested, *sorted(names)) if name in names), None)
