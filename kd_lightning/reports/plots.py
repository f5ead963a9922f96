"""Plots of runs with several seeds: learning curves, metrics with one dot per run, and accuracy against cost."""

import math
import re
from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd_lightning.reports.axes import Metric, describe
from kd_lightning.reports.frame import teachers
from kd_lightning.reports.run_results import RunResult, Runs
from kd_lightning.reports.style import INK, TEACHER_COLOR, Style, label, legend, panel, size_of, styles

CURVES = ("val/acc", "val/knn", "val/linear", "val/neighbors", "val/cosine", "val/agreement")
"""Columns of metrics.csv for learning curves, in order of preference."""
GroupStyles = Mapping[str, Style]


def learning_curves(runs: Runs, column: str | None = None, group_styles: GroupStyles | None = None) -> Figure:
    """Plot a column of metrics.csv by epoch: the mean over seeds, in a band from minimum to maximum.

    A marker shows the selected epoch of one seed.

    Args:
        runs: runs of one data set.
        column: column of metrics.csv. Default: the column of CURVES that most runs have, otherwise train/loss.
        group_styles: a result of `styles`.
    """
    column, group_styles = column or validation_column(runs) or "train/loss", group_styles or styles(runs.groups)
    metric = describe(column)
    figure, axes = panel(2.7)
    handles, names, all_values, epochs = [], [], [], set()
    for group in runs.groups:
        members = {run.folder: by_epoch(run, column) * metric.scale for run in runs.of(group)}
        members = {folder: curve for folder, curve in members.items() if len(curve)}
        if not members:
            continue
        table, style = pd.DataFrame(members), group_styles[group]
        all_values.append(table.to_numpy().ravel())
        marker = style.marker if len(table) == 1 else ""  # a line of one epoch would be invisible
        axes.plot(table.index, table.mean(axis=1), marker, color=style.color, linestyle=style.line, linewidth=1.6)
        epochs |= {*table.index}
        axes.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=style.color, alpha=0.15, linewidth=0)
        for run in runs.of(group):
            epoch = (run.results.protocol["epoch"] or 0) + 1
            curve = members.get(run.folder)
            if column.startswith("val/") and curve is not None and epoch in curve.index:
                axes.plot(
                    [epoch],
                    [curve[epoch]],
                    style.marker,
                    color=style.color,
                    markersize=size_of(style.marker, 6),
                    mec="white",
                )
        handles.append(_handle(style, line=True))
        names.append(group)
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_title(_title(metric if column.startswith("val/") else metric._replace(title=column)), fontsize=10)
    values = np.concatenate(all_values) if all_values else np.array([])
    values = values[np.isfinite(values)]
    if column == "train/loss" and len(values) and values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if len(epochs) == 1:
        axes.set_xticks([*epochs])
    legend(figure, handles, names)
    return figure


def validation_column(runs: Runs) -> str | None:
    """Return the column of CURVES that most runs have, or None if no run has any of them."""
    counts = {column: sum(column in run.history for run in runs) for column in CURVES}
    best = max(counts, key=lambda column: counts[column])
    return best if counts[best] else None


def by_epoch(run: RunResult, column: str) -> pd.Series:
    """Return the mean of a column of metrics.csv for each epoch, counted from 1; empty if the column is missing."""
    if column not in run.history or "epoch" not in run.history:
        return pd.Series(dtype=float)
    table = run.history[["epoch", column]].replace([math.inf, -math.inf], math.nan).dropna()
    means = table[table[column].abs() < 1e15].groupby("epoch")[column].mean()
    means.index = means.index.astype(int) + 1
    return means


def dots(frame: pd.DataFrame, metric: str | Metric, group_styles: GroupStyles | None = None) -> Figure:
    """Plot one metric of each group: a dot for each seed, a bar at the mean, and dashed lines for the teachers."""
    metric = describe(metric) if isinstance(metric, str) else metric
    groups = _evaluated(frame, metric)
    figure, axes = panel(0.95 + 0.27 * max(2, len(groups)))
    draw_dots(axes, frame, metric, group_styles or styles(frame["group"]))
    figure.suptitle(_title(metric), fontsize=10)  # the axes are narrower than the figure
    return figure


def draw_dots(axes: Axes, frame: pd.DataFrame, metric: Metric, group_styles: GroupStyles) -> None:
    """Draw the plot of `dots` into existing axes."""
    groups = _evaluated(frame, metric)
    for row_number, group in enumerate(groups):
        values = frame.loc[frame["group"] == group, metric.name].dropna().to_numpy(float) * metric.scale
        offsets = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else np.zeros(1)
        style = group_styles[group]
        axes.plot(
            [values.mean()] * 2, [row_number - 0.34, row_number + 0.34], color=INK, linewidth=1.5, solid_capstyle="butt"
        )
        size = size_of(style.marker, 5.5)
        axes.plot(
            values,
            row_number + offsets,
            style.marker,
            color=style.color,
            markersize=size,
            markeredgecolor="white",
            mew=0.5,
        )
    for value in teachers(frame, metric.name).values():
        axes.axvline(value * metric.scale, color=TEACHER_COLOR, linestyle=(0, (4, 2)), linewidth=1.2)
        axes.text(
            value * metric.scale,
            1.0,
            "teacher",
            transform=axes.get_xaxis_transform(),
            fontsize=8,
            color=TEACHER_COLOR,
            ha="center",
            va="bottom",
        )
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_yticks(range(len(groups)), [label(group, 20) for group in groups], fontsize=9)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=5)


def against_cost(
    frame: pd.DataFrame, metric: str, cost: str, group_styles: GroupStyles | None = None, *, title: str | None = None
) -> Figure:
    """Plot a metric against a cost. A point is the mean of a group, with bars of one standard deviation.

    Teachers are stars.

    Args:
        frame: a result of `frame`.
        metric: metric on the vertical axis, for example `test/acc`.
        cost: metric on the horizontal axis, for example `cost/parameters`. The axis is logarithmic if the costs differ
            by a factor of 5 or more.
        group_styles: a result of `styles`.
        title: title of the plot. Default: no title.
    """
    group_styles, metric_info, cost_info = group_styles or styles(frame["group"]), describe(metric), describe(cost)
    figure, axes = panel(2.7)
    handles, names, costs = [], [], []
    complete = frame.dropna(subset=[metric, cost])
    for group, rows in complete.groupby("group", sort=False):
        x, y, style = rows[cost] * cost_info.scale, rows[metric] * metric_info.scale, group_styles[group]
        error = {"yerr": y.std() if len(y) > 1 else None, "xerr": x.std() if len(x) > 1 and x.std() else None}
        axes.errorbar(
            x.mean(),
            y.mean(),
            **error,
            fmt=style.marker,
            color=style.color,
            markersize=size_of(style.marker, 7),
            capsize=3,
            elinewidth=1,
        )
        handles.append(_handle(style))
        names.append(str(group))
        costs.append(x.mean())
    teacher_metrics, teacher_costs = teachers(frame, metric), teachers(frame, cost)
    for name in (name for name in teacher_metrics if name in teacher_costs):
        x, y = teacher_costs[name] * cost_info.scale, teacher_metrics[name] * metric_info.scale
        axes.plot([x], [y], "*", color=TEACHER_COLOR, markersize=11)
        handles.append(Line2D([], [], marker="*", linestyle="", color=TEACHER_COLOR, markersize=10))
        names.append("teacher" if len(teacher_metrics) == 1 else name)
        costs.append(x)
    if costs and min(costs) > 0 and max(costs) > 5 * min(costs):
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.margins(0.12)
    axes.set_xlabel(label(cost_info.heading, 60), fontsize=9)
    axes.set_ylabel(label(metric_info.heading, 44), fontsize=9)
    if title:
        axes.set_title(label(title, 60), fontsize=10)
    legend(figure, handles, names)
    return figure


def _evaluated(frame: pd.DataFrame, metric: Metric) -> list[str]:
    return list(dict.fromkeys(frame.dropna(subset=[metric.name])["group"]))


def _handle(style: Style, *, line: bool = False) -> Line2D:
    return Line2D(
        [],
        [],
        color=style.color,
        marker=style.marker,
        markersize=size_of(style.marker, 6),
        linestyle=style.line if line else "",
    )


def _title(metric: Metric) -> str:
    heading = re.sub(r" (?=[%↑↓])", "\N{NO-BREAK SPACE}", metric.heading)  # no line begins with a unit or an arrow
    return fill(label(heading, 80), 50)


def usable_costs(frame: pd.DataFrame, metrics: Sequence[Metric], against: str | None = None) -> list[Metric]:
    """Return the costs that have their own plot (`Metric.key`) and whose values differ, including those of teachers.

    If all students have the same number of multiply-adds, their latencies are skipped, because they differ only by
    noise.

    Args:
        frame: a result of `frame`.
        metrics: metrics of the comparison.
        against: metric that is plotted against the costs. Teachers without a value of this metric are not plotted.
    """
    drawn = None if against is None else teachers(frame, against)
    same_macs = "cost/macs" in frame and frame["cost/macs"].nunique() == 1
    measured = ("cost/latency", "cost/images_per_second")
    costs = []
    for metric in metrics:
        of_teachers = [cost for name, cost in teachers(frame, metric.name).items() if drawn is None or name in drawn]
        values = [*frame[metric.name].dropna(), *of_teachers]
        differs = len(values) and max(values) > 1.02 * min(values)
        if metric.axis == "cost" and metric.key and differs and not (same_macs and metric.name.startswith(measured)):
            costs.append(metric)
    return costs
