"""Whether a student is as sure as it is right, before and after temperature scaling."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.evaluation import NetworkView
from kd_lightning.metrics import classification as metric
from kd_lightning.reports.style import COLORS, INK, tidy


class Calibration(NamedTuple):
    """What `calibration` finds."""

    temperature: float
    """That the logits are divided by, fitted on the validation images (Guo et al. 2017, section 4.2)."""
    before: metric.Reliability
    after: metric.Reliability
    ece: float
    """Expected calibration error of the evaluated images, 15 bins."""
    ece_scaled: float


def calibration(eyes: NetworkView) -> Calibration:
    """A classifier's calibration on the evaluated images; the temperature is of the validation images, not of these.

    Raises:
        ConfigError: for a classifier that is not trained, or data without labels or validation images.
    """
    if not eyes.knows_classes or not eyes.data.labeled:
        raise ConfigError(f"{eyes.network.name}: no classifier trained on the data's labels to calibrate")
    eyes.data.setup("fit")
    if "val" not in eyes.data.datasets:
        raise ConfigError("data.val_split: 0 leaves no validation images to fit a temperature on")
    held_out, evaluated = eyes.seen("val"), eyes.seen()
    temperature = metric.fit_temperature(held_out.logits, held_out.labels)
    scaled = evaluated.logits / temperature
    bins = [metric.reliability(logits, evaluated.labels) for logits in (evaluated.logits, scaled)]
    errors = [float(metric.ece(logits, evaluated.labels)) for logits in (evaluated.logits, scaled)]
    return Calibration(temperature, *bins, *errors)


def reliability_diagrams(found: Calibration) -> Figure:
    """Accuracy by confidence before and after scaling, with the share of images in each bin below."""
    figure = Figure(figsize=(7.4, 4.0), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 2, height_ratios=(3, 1), sharex=True, sharey="row")
    titles = (
        f"as trained: calibration error {found.ece:.1%}",
        f"logits / {found.temperature:.2f}: calibration error {found.ece_scaled:.1%}",
    )
    for column, (bins, title) in enumerate(zip((found.before, found.after), titles, strict=True)):
        edges, share = np.linspace(0, 100, len(bins.count) + 1), _shares(bins.count)
        upper, lower = panels[:, column]
        upper.plot([0, 100], [0, 100], color="#888888", linewidth=1)
        full = bins.count.numpy() > 0
        heights = np.where(full, 100 * bins.accuracy.nan_to_num(0).numpy(), 0)
        upper.stairs(heights, edges, fill=True, color=COLORS[5], alpha=0.6)
        confidence, accuracy = (100 * part.numpy()[full] for part in (bins.confidence, bins.accuracy))
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
