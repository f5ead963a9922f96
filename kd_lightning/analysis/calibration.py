"""Calibration of a classifier before and after temperature scaling."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import NetworkView
from kd_lightning.metrics import classification as metric
from kd_lightning.reports.style import COLORS, INK, tidy


class Calibration(NamedTuple):
    """Result of `calibration`."""

    temperature: float
    """Number by which the logits are divided, fitted on the validation images (Guo et al. 2017, section 4.2)."""
    before: metric.Reliability
    after: metric.Reliability
    ece: float
    """Expected calibration error on the evaluated images, with 15 bins."""
    ece_scaled: float


def calibration(view: NetworkView) -> Calibration:
    """Return a classifier's calibration on the evaluated images; the temperature is fitted on the validation images.

    Raises:
        ConfigError: if the classifier is not trained, or if the data have no labels or no validation images.
    """
    if not view.knows_classes or not view.data.labeled:
        raise ConfigError(
            f"{view.network.name}: this network has no classifier that was trained on the data's labels, so there are "
            "no predictions to calibrate; choose a run that trains a classifier with labels"
        )
    view.data.setup("fit")
    if "val" not in view.data.datasets:
        raise ConfigError(
            "data.val_split: 0 leaves no validation images, which are needed to fit the temperature; set it above 0"
        )
    val_predictions, predictions = view.predictions("val"), view.predictions()
    temperature = metric.fit_temperature(val_predictions.logits, val_predictions.labels)
    scaled = predictions.logits / temperature
    bins = [metric.reliability(logits, predictions.labels) for logits in (predictions.logits, scaled)]
    errors = [float(metric.ece(logits, predictions.labels)) for logits in (predictions.logits, scaled)]
    return Calibration(temperature, *bins, *errors)


def reliability_diagrams(result: Calibration) -> Figure:
    """Plot accuracy by confidence, before and after scaling; the plots below show the share of images in each bin."""
    figure = Figure(figsize=(7.4, 4.0), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 2, height_ratios=(3, 1), sharex=True, sharey="row")
    titles = (
        f"as trained: calibration error {result.ece:.1%}",
        f"logits / {result.temperature:.2f}: calibration error {result.ece_scaled:.1%}",
    )
    for column, (bins, title) in enumerate(zip((result.before, result.after), titles, strict=True)):
        edges, share = np.linspace(0, 100, len(bins.count) + 1), _shares(bins.count)
        upper, lower = panels[:, column]
        upper.plot([0, 100], [0, 100], color="#888888", linewidth=1)
        nonempty = bins.count.numpy() > 0
        heights = np.where(nonempty, 100 * bins.accuracy.nan_to_num(0).numpy(), 0)
        upper.stairs(heights, edges, fill=True, color=COLORS[5], alpha=0.6)
        confidence, accuracy = (100 * part.numpy()[nonempty] for part in (bins.confidence, bins.accuracy))
        upper.plot(confidence, accuracy, "o", color=COLORS[0], markersize=5)
        upper.set_title(title, fontsize=10)
        lower.stairs(100 * share, edges, fill=True, color=INK, alpha=0.7)
        lower.set_xlabel("confidence, %", fontsize=9)
        for axes in (upper, lower):
            tidy(axes)
    panels[0, 0].set_ylabel("accuracy, %", fontsize=9)
    panels[1, 0].set_ylabel("images, %", fontsize=9)
    return figure


def _shares(count: Tensor) -> np.ndarray:
    return (count / count.sum().clamp(min=1)).numpy()
