"""report.html: one self-contained page."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd_lightning.reports import detail_plots, effects, plots, tables
from kd_lightning.reports.axes import describe
from kd_lightning.reports.comparison import Comparison
from kd_lightning.reports.disagreement import (
    UnavailableError,
    load_images,
    most_disagreed,
    read_predictions,
    thumbnail,
)
from kd_lightning.reports.frame import teachers
from kd_lightning.reports.run_results import RunResult
from kd_lightning.reports.style import Style, as_uri, size_of, styles
from kd_lightning.reports.varied import titles
from kd_lightning.words import counted

DOTS_CAPTION = "A bar is the mean of a group, and a mark is one seed"


class Picture(NamedTuple):
    """A figure on the page."""

    uri: str
    alt: str
    caption: str = ""
    width: int = 480
    """Largest width in pixels."""
    scrolls: bool = False


def page(
    comparisons: list[Comparison], problems: Iterable[str] = (), *, folder: Path | None = None, images: bool = True
) -> str:
    """Return the HTML of the page.

    Args:
        comparisons: comparisons, one for each data set.
        problems: lines about skipped runs, and general warnings.
        folder: folder of the page, for relative links to the folders of the runs. Default: the page has no links.
        images: whether the images with the largest disagreement are shown. They are loaded from the data of the runs.
    """
    environment = Environment(
        loader=PackageLoader("kd_lightning.reports"),
        autoescape=True,  # names in configs may contain HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [_section(number, comparison, folder, images) for number, comparison in enumerate(comparisons, 1)]
    return environment.get_template("report.html").render(
        title=f"{counted(sum(len(c.runs) for c in comparisons), 'run')} on {', '.join(c.data for c in comparisons)}",
        problems=list(problems),
        sections=sections,
        made=time.strftime("%Y-%m-%d %H:%M"),
    )


def _section(number: int, comparison: Comparison, folder: Path | None, images: bool) -> dict[str, Any]:
    """Return the template's variables for one data set."""
    runs, group_styles = comparison.runs, styles(comparison.runs.groups)
    disagreed, note = _disagreed(comparison) if images else ([], "the argument images is false")
    return {
        "id": f"d{number}",
        "data": comparison.data,
        "about": comparison.about.title,
        "protocol": tables.protocol(comparison),
        "baseline": comparison.baseline,
        "how": tables.column_notes(comparison),
        "warnings": [*comparison.warnings, *read_predictions(runs)[1]],
        "groups": [_group(comparison, group, group_styles[group], folder) for group in runs.groups],
        "teachers": {
            f"{name}, teacher": comparison.about.show(value)
            for name, value in teachers(comparison.frame, comparison.metric).items()
        },
        "varied": [*titles(comparison.varied).values()],
        "effects": _effects(comparison),
        "curves": _curves(comparison, group_styles),
        "costs": _costs(comparison, group_styles),
        "axes": [_axis(comparison, axis, group_styles) for axis in comparison.axes],
        "classes": _classes(comparison),
        "disagreed": disagreed,
        "disagreed_note": note,
        "settings": _settings(comparison),
    }


def _group(comparison: Comparison, group: str, style: Style, folder: Path | None) -> dict[str, Any]:
    members = comparison.runs.of(group)
    row = comparison.statistics[comparison.metric].loc[group]
    first = members[0].results
    seconds = [run.results.seconds for run in members if run.results.seconds is not None]
    metric = comparison.about
    commits = dict.fromkeys(run.results.code["commit"] or run.results.code["version"] for run in members)
    return {
        "label": group,
        "swatch": _swatch(style),
        "settings": [effects.text_of(values.get(group, "")) for values in comparison.varied.values()],
        "best": group in comparison.best(metric),
        "value": tables.mean_and_std(metric, row),
        "n": int(row["n"]),
        "pairs": int(row["pairs"]),
        "difference": tables.difference(metric, row),
        "p": tables.p_value(row["p_holm"]),
        "note": row["note"],
        "method": members[0].method,
        "networks": " → ".join(filter(None, [first.run["teacher"], first.run["student"]])),
        "seeds": ", ".join("-" if run.seed is None else str(run.seed) for run in members),
        "select": ", ".join(dict.fromkeys(run.results.protocol["select"] or "unknown" for run in members)),
        "epochs": ", ".join(_epoch(run) for run in members),
        "minutes": describe("seconds").show(sum(seconds) / len(seconds)) if seconds else "-",
        "code": ", ".join(filter(None, commits)),
        "runs": [{"name": run.name, "link": _link(run, folder), "folder": str(run.folder)} for run in members],
    }


def _epoch(run: RunResult) -> str:
    """Return the selected epoch, counted from 1 as in the plots."""
    epoch, max_epochs = run.results.protocol["epoch"], run.results.protocol["max_epochs"]
    return "-" if epoch is None else f"{epoch + 1}" + (f" of {max_epochs}" if max_epochs and max_epochs > 0 else "")


def _link(run: RunResult, folder: Path | None) -> str | None:
    return None if folder is None else quote(os.path.relpath(run.folder, folder)) + "/"


def _curves(comparison: Comparison, group_styles: plots.GroupStyles) -> list[Picture]:
    runs, pictures = comparison.runs, []
    validation_column = plots.validation_column(runs)
    for column in filter(None, [validation_column, "train/loss"]):
        if any(column in run.history for run in runs):
            caption = {
                "train/loss": "Different methods have different loss terms, so the values cannot be compared."
            }.get(column, "A marker shows the selected epoch of one seed.")
            figure = plots.learning_curves(runs, column, group_styles)
            pictures.append(Picture(as_uri(figure), f"{column} by epoch for each group", caption))
    return pictures


def _effects(comparison: Comparison) -> list[Picture]:
    return [
        Picture(as_uri(effects.effect(comparison, setting)), f"{comparison.about.title} by {title}")
        for setting, title in titles(comparison.varied).items()
    ]


def _costs(comparison: Comparison, group_styles: plots.GroupStyles) -> list[Picture]:
    costs = plots.usable_costs(comparison.frame, comparison.metrics, comparison.metric)
    return [
        Picture(
            as_uri(plots.against_cost(comparison.frame, comparison.metric, cost.name, group_styles)),
            f"{comparison.about.title} against {cost.title}",
        )
        for cost in costs
        if comparison.about.axis != "cost"
    ]


def _axis(comparison: Comparison, axis: str, group_styles: plots.GroupStyles) -> dict[str, Any]:
    """Return the template's variables for an axis: plots, table and details."""
    runs, metrics = comparison.runs, comparison.axes[axis]
    plotted = plots.usable_costs(comparison.frame, metrics) if axis == "cost" else metrics
    # if all values are equal, the table is sufficient
    plotted = [metric for metric in plotted if metric.key and comparison.frame[metric.name].nunique() > 1]
    pictures = [
        Picture(as_uri(plots.dots(comparison.frame, metric, group_styles)), f"{metric.title} for each group and seed")
        for metric in plotted
    ]
    figures: list[tuple[Figure | None, str, bool]] = []
    if axis == "calibration":
        figures.append(
            (detail_plots.reliability(runs, group_styles), "Accuracy by confidence, over all seeds of a group.", False)
        )
    if axis == "out-of-distribution":
        figures += [
            (detail_plots.ood_histograms(runs, key, group_styles), "", False) for key in detail_plots.ood_keys(runs)
        ]
    if axis == "robustness":
        figures.append((detail_plots.corruption_curves(runs, group_styles), "", False))
        figures.append((detail_plots.corruption_gaps(runs, comparison.baseline), "", True))
    detail_pictures = [_picture(figure, caption, axis, wide) for figure, caption, wide in figures if figure]
    header, rows = [metric.heading for metric in metrics], []
    for group in runs.groups:
        cells = []
        for metric in metrics:
            row = comparison.statistics[metric.name].loc[group]
            p = tables.p_value(row["p_holm"])
            cells.append(
                {
                    "value": tables.mean_and_std(metric, row),
                    "difference": tables.difference(metric, row),
                    "p": f"p {p.replace('<', '< ')}" if p else "",
                    "best": group in comparison.best(metric),
                }
            )
        rows.append({"label": group, "cells": cells})
    teacher_values = {metric.name: teachers(comparison.frame, metric.name) for metric in metrics}
    for name in dict.fromkeys(name for values in teacher_values.values() for name in values):
        values = [metric.show(teacher_values[metric.name].get(name, float("nan"))) for metric in metrics]
        cells = [{"value": value, "difference": "", "p": "", "best": False} for value in values]
        rows.append({"label": f"{name}, teacher", "cells": cells})
    has_line = any(teacher_values[metric.name] for metric in plotted)
    return {
        "name": axis,
        "pictures": [*pictures, *detail_pictures],
        "header": header,
        "rows": rows,
        "note": f"{DOTS_CAPTION}.{' The dashed line is the teacher.' * has_line}",
    }


def _picture(figure: Figure, caption: str, alt: str, wide: bool) -> Picture:
    width = int(figure.get_figwidth() * 96)
    return Picture(as_uri(figure), alt, caption, max(480, width), wide and width > 400)


def _classes(comparison: Comparison) -> Picture | None:
    figure = detail_plots.class_gaps(comparison.runs, comparison.baseline)
    if figure is None:
        return None
    against = detail_plots.class_reference(comparison.runs, comparison.baseline)[0]
    caption = (
        f"Accuracy of each class (mean over seeds) minus {'that of ' * (against == comparison.baseline)}{against}."
    )
    return _picture(figure, caption, "accuracy by class, differences", True)


def _disagreed(comparison: Comparison) -> tuple[list[dict[str, Any]], str]:
    """Return the images with their predictions and '', or an empty list and the reason."""
    runs = comparison.runs
    try:
        disagreements = most_disagreed(runs, read_predictions(runs)[0])
        if not disagreements:
            return [], "all students predict the same class for every image"
        pixels = load_images(runs, [one.index for one in disagreements], [one.label for one in disagreements])
    except UnavailableError as error:
        return [], str(error)
    names = next((run.results.data["class_names"] for run in runs if run.results.data["class_names"]), [])

    def name(label: int) -> str:
        return names[label] if 0 <= label < len(names) else f"class {label}"

    return [
        {
            "uri": thumbnail(image),
            "label": name(one.label) if one.label >= 0 else "no label",
            "index": one.index,
            "teacher": None if one.teacher is None else name(one.teacher),
            "votes": [
                {
                    "group": group,
                    "predictions": ", ".join(f"{name(label)} ({count})" for label, count in votes.items()),
                    "right": [*votes] == [one.label],
                }
                for group, votes in one.votes.items()
            ],
        }
        for one, image in zip(disagreements, pixels, strict=True)
    ], ""


def _settings(comparison: Comparison) -> dict[str, Any]:
    settings = comparison.settings()
    groups = list(dict.fromkeys(group for values in settings.values() for group in values))
    rows = [
        {"key": key, "values": ["-" if values.get(group) is None else str(values[group]) for group in groups]}
        for key, values in sorted(settings.items())
    ]
    return {"groups": groups, "rows": rows}


def _swatch(style: Style) -> str:
    """Return a picture of a group's line and marker, as in the plots."""
    figure = Figure(figsize=(0.42, 0.17), facecolor="none")
    figure.add_artist(Line2D([0, 1], [0.5, 0.5], color=style.color, linestyle=style.line, linewidth=1.6))
    marker = {"color": style.color, "marker": style.marker, "markersize": size_of(style.marker, 7)}
    figure.add_artist(Line2D([0.5], [0.5], **marker))
    return as_uri(figure)
