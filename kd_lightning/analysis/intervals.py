"""Differences to a baseline with their intervals, as a picture."""

import numpy as np
from matplotlib.figure import Figure

from kd_lightning.reports import Comparison, Metric, describe, styles
from kd_lightning.reports.style import INK, label, panel, size_of


def differences(comparison: Comparison, metric: str | Metric | None = None) -> Figure:
    """Each group's mean difference to the baseline, paired by seed, with its 95 % t-interval; 0 is no difference.

    Args:
        comparison: as `reports.compare` gives it.
        metric: default: what the comparison is about.
    """
    chosen = comparison.about if metric is None else describe(metric) if isinstance(metric, str) else metric
    table = comparison.statistics[chosen.name]
    table = table[table["note"] != "baseline"]
    looks = styles(comparison.runs.groups)
    figure, axes = panel(1.0 + 0.4 * max(1, len(table)), 5.2)
    axes.axvline(0, color=INK, linewidth=1)
    for place, (group, row) in enumerate(table.iterrows()):
        look, middle = looks[group], row["difference"] * chosen.scale
        if np.isfinite(row["low"]):
            ends = [row["low"] * chosen.scale, row["high"] * chosen.scale]
            axes.plot(ends, [place, place], color=look.color, linewidth=2.2, solid_capstyle="butt")
        axes.plot([middle], [place], look.marker, color=look.color, markersize=size_of(look.marker, 8), mec="white")
    axes.set_yticks(range(len(table)), [label(str(group), 24) for group in table.index], fontsize=9)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    unit = {"%": ", points", "": ""}.get(chosen.unit, f", {chosen.unit}")
    axes.set_xlabel(f"difference to {label(comparison.baseline, 24)}{unit}", fontsize=9)
    axes.set_title(label(chosen.title, 60), fontsize=10)
    return figure
