"""The effect of settings: settings that differ between runs of the same method, and plots of a metric by setting."""

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd_lightning.reports.axes import Metric
from kd_lightning.reports.run_results import RunResult, Runs
from kd_lightning.reports.style import INK, WIDTH, label, size_of, styles, tidy
from kd_lightning.reports.varied import Varied, titles, varied

MOST_LINES, MOST_TICKS = 8, 5


def in_order(runs: Runs) -> list[RunResult]:
    """Return the runs sorted by method, in the order of appearance, and then by the values of the varied settings."""
    methods, settings = [*dict.fromkeys(run.method for run in runs)], varied(runs).values()

    def place(run: RunResult) -> tuple:
        return methods.index(run.method), [_natural(values.get(run.group)) for values in settings]

    return sorted(runs, key=place)


def text_of(value: Any) -> str:
    """Return a value as text, without `.0`."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def effect(comparison: Any, setting: str) -> Figure:
    """Plot the main metric of a comparison by one setting. See `draw`."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained", facecolor="white")
    draw(figure.add_subplot(), comparison.frame, comparison.about, comparison.varied, setting)
    return figure


def effects(comparison: Any, columns: int = 3) -> Figure:
    """Plot the main metric of a comparison by each varied setting, in one figure. See `draw`."""
    columns = min(columns, len(comparison.varied))
    rows = -(-len(comparison.varied) // columns)
    figure = Figure(figsize=(WIDTH * columns, 3.2 * rows), layout="constrained", facecolor="white")
    for number, setting in enumerate(comparison.varied, 1):
        draw(figure.add_subplot(rows, columns, number), comparison.frame, comparison.about, comparison.varied, setting)
    return figure


def draw(axes: Axes, frame: pd.DataFrame, metric: Metric, settings: Varied, setting: str) -> None:
    """Draw a metric by the values of a setting: a point is the mean of a group, a bar is one standard deviation.

    A line connects groups that differ only in this setting. Its values are on a logarithmic axis if they are positive
    numbers of which the largest is at least ten times the smallest.
    """
    tidy(axes)
    names, methods = titles(settings), frame.groupby("group", sort=False)["method"].first()
    groups = frame.dropna(subset=[metric.name]).groupby("group", sort=False)[metric.name]
    several = methods[[group for group in settings[setting] if group in methods]].nunique() > 1
    lines: dict[tuple, list[tuple[Any, float, float]]] = {}
    for group, values in groups:
        if group in settings[setting]:
            others = [f"{names[name]} {text_of(v.get(group, '-'))}" for name, v in settings.items() if name != setting]
            key = (*([methods[group]] if several else []), *others)
            point = settings[setting][group], values.mean() * metric.scale, values.std() * metric.scale
            lines.setdefault(key, []).append(point)
    xs = sorted({point[0] for line in lines.values() for point in line}, key=_natural)
    is_number = all(isinstance(x, int | float) and not isinstance(x, bool) for x in xs)
    place = {x: x if is_number else n for n, x in enumerate(xs)}
    connected = [key for key, line in lines.items() if len(line) > 1]
    style = styles(map(str, connected))
    for key, line in lines.items():
        x, means, deviations = zip(*sorted((place[value], mean, std) for value, mean, std in line), strict=True)
        look = style.get(str(key))
        axes.errorbar(
            x,
            means,
            yerr=[0.0 if math.isnan(value) else value for value in deviations],
            marker=look.marker if look else "o",
            color=look.color if look else INK,
            linestyle=look.line if look else "",
            markersize=size_of(look.marker, 6) if look else 5,
            linewidth=1.4,
            elinewidth=1,
            capsize=3,
            label=label(", ".join(key), 40),
        )
    if not is_number:
        axes.set_xticks(range(len(xs)), [label(text_of(x), 14) for x in xs], rotation=30 if len(xs) > 3 else 0)
        axes.margins(x=0.2)
    elif min(xs) > 0 and max(xs) >= 10 * min(xs):
        axes.set_xscale("log")
    if is_number and len(xs) <= MOST_TICKS:
        axes.set_xticks(xs, [text_of(x) for x in xs])
        axes.set_xticks([], minor=True)
    if 1 < len(connected) <= MOST_LINES:
        wanted = {label(", ".join(key), 40) for key in connected}
        handles, texts = axes.get_legend_handles_labels()
        shown = [pair for pair in zip(handles, texts, strict=True) if pair[1] in wanted]
        place_below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}
        columns = 1 if max(map(len, wanted)) > 24 else 2
        axes.legend(*zip(*shown, strict=True), fontsize=8, frameon=False, ncols=columns, **place_below)
    axes.set_xlabel(label(names[setting], 60), fontsize=9)
    axes.set_ylabel(label(metric.heading, 44), fontsize=9)


def _natural(value: Any) -> tuple:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if is_number else (1, 0.0, "" if value is None else str(value))
