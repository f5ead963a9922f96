"""Plot of differences to a baseline with confidence intervals."""

import numpy as np
from matplotlib.figure import Figure

from kd_lightning.reports import Comparison, Metric, describe, styles
from kd_lightning.reports.style import INK, label, panel, size_of


def plot_differences(comparison: Comparison, metric: str | Metric | None = None) -> Figure:
    """Plot each group's mean difference to the baseline with its 95 % t-interval; runs with the same seed form pairs.

    Args:
        comparison: a result of `reports.compare`.
        metric: metric to plot, or its name; default: the main metric of the comparison.
    """
    metric = comparison.about if metric is None else describe(metric) if isinstance(metric, str) else metric
    table = comparison.statistics[metric.name]
    table = table[table["note"] != "baseline"]
    group_styles = styles(comparison.runs.groups)
    figure, axes = panel(1.0 + 0.4 * max(1, len(table)), 5.2)
    axes.axvline(0, color=INK, linewidth=1)
    for row_number, (group, row) in enumerate(table.iterrows()):
        style, mean = group_styles[group], row["difference"] * metric.scale
        if np.isfinite(row["low"]):
            ends = [row["low"] * metric.scale, row["high"] * metric.scale]
            axes.plot(ends, [row_number, row_number], color=style.color, linewidth=2.2, solid_capstyle="butt")
        axes.plot(
            [mean], [row_number], style.marker, color=style.color, markersize=size_of(style.marker, 8), mec="white"
        )
    axes.set_yticks(range(len(table)), [label(str(group), 24) for group in table.index], fontsize=9)
    axes.set_ylim(max(1, len(table)) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    unit = {"%": ", points", "": ""}.get(metric.unit, f", {metric.unit}")
    axes.set_xlabel(f"difference to {label(comparison.baseline, 24)}{unit}", fontsize=9)
    axes.set_title(label(metric.title, 60), fontsize=10)
    return figure
