"""Plots of the evaluators' details: classes, calibration, out-of-distribution scores, corruptions."""

from collections.abc import Sequence
from textwrap import fill

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kd_lightning.reports.plots import GroupStyles
from kd_lightning.reports.run_results import RunResult, Runs
from kd_lightning.reports.style import INK, TEACHER_COLOR, WIDTH, label, legend, panel, styles, tidy

MAX_CLASSES = 30


def class_gaps(runs: Runs, baseline: str | None = None, *, max_classes: int = MAX_CLASSES) -> Figure | None:
    """Plot each group's accuracy per class minus that of the teacher, in percentage points, as a heat map.

    Args:
        runs: runs of one data set.
        baseline: group whose accuracy is subtracted if no run has the accuracies of its teacher.
        max_classes: largest number of classes. The classes with the largest differences are shown.

    Returns:
        The figure; None if there are no accuracies per class, or if neither teacher nor baseline has them.
    """
    accuracies, against = _class_accuracies(runs), class_reference(runs, baseline)
    if against is None:
        return None
    name, reference = against
    gaps = {group: 100 * (acc - reference) for group, acc in accuracies.items() if len(acc) == len(reference)}
    gaps.pop(name, None)
    if not gaps:
        return None
    table = np.nan_to_num(np.stack([*gaps.values()], axis=1))
    rows = np.argsort(-np.abs(table).max(axis=1), kind="stable")[:max_classes]
    rows = rows[np.argsort(table[rows].mean(axis=1), kind="stable")]
    names = next((run.results.data["class_names"] for run in runs if run.results.data["class_names"]), [])
    titles = [names[row] if row < len(names) else f"class {row}" for row in rows]
    return heat_map(table[rows], titles, [*gaps], f"accuracy minus {'that of ' * (name in accuracies)}{name}, points")


def class_reference(runs: Runs, baseline: str | None) -> tuple[str, np.ndarray] | None:
    """Return a name and K accuracies with which the students are compared: the teacher's, otherwise the baseline's."""
    teacher_accuracies = [run.results.details.get("per_class", {}).get("accuracy_teacher") for run in runs]
    known = [accuracy for accuracy in teacher_accuracies if accuracy is not None]
    if known and all(len(accuracy) == len(known[0]) for accuracy in known):
        return "the teacher's", np.nan_to_num(np.stack(known)).mean(axis=0)
    accuracies = _class_accuracies(runs)
    return (baseline, accuracies[baseline]) if baseline in accuracies else None


def heat_map(table: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """Plot numbers R,C as coloured cells with the number in each cell: purple is above 0, orange is below 0."""
    width = min(max(WIDTH, 1.4 + 0.55 * len(columns)), 12)
    longest = max(map(len, columns), default=0)
    figure, axes = panel(0.9 + 0.24 * len(rows) + 0.055 * min(longest, 20), width)
    limit = max(1e-9, float(np.abs(table).max()))
    axes.imshow(table, cmap="PuOr", norm=TwoSlopeNorm(0, -limit, limit), aspect="auto")
    axes.grid(visible=False)
    axes.set_yticks(range(len(rows)), [label(name, 22) for name in rows], fontsize=9)
    rotation = 0 if longest * len(columns) < 34 else 90 if len(columns) > 8 else 35
    axes.set_xticks(range(len(columns)), [label(name, 20) for name in columns], fontsize=9, rotation=rotation)
    if 0 < rotation < 90:
        for tick in axes.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
    for (row, column), value in np.ndenumerate(table):
        ink = "white" if abs(value) > 0.62 * limit else INK
        axes.text(
            column, row, f"{round(value):+d}" if round(value) else "0", ha="center", va="center", fontsize=8, color=ink
        )
    figure.suptitle(fill(label(title, 90), int(11 * width)), fontsize=10)  # the axes are narrower than the figure
    return figure


def reliability(runs: Runs, group_styles: GroupStyles | None = None) -> Figure | None:
    """Plot the accuracy of each group by confidence, over all seeds; calibrated networks are on the diagonal."""
    group_styles = group_styles or styles(runs.groups)
    figure, axes = panel(3.1)
    axes.plot([0, 100], [0, 100], color="#888888", linewidth=1)
    handles, names = [], []
    for group in runs.groups:
        curve = _reliability([run for run in runs.of(group) if "calibration" in run.results.details])
        if curve is None:
            continue
        style = group_styles[group]
        axes.plot(*curve, color=style.color, linestyle=style.line, marker=style.marker, markersize=4.5, linewidth=1.3)
        handles.append(Line2D([], [], color=style.color, linestyle=style.line, marker=style.marker, markersize=6))
        names.append(group)
    if not handles:
        return None
    axes.set_xlabel("confidence, %", fontsize=9)
    axes.set_ylabel("accuracy, %", fontsize=9)
    axes.set_title("reliability: below the line is overconfident", fontsize=10)
    legend(figure, handles, names)
    return figure


def ood_keys(runs: Runs, limit: int = 6) -> list[str]:
    """Return the names `<score>_<data>` for which students have histograms, sorted by score."""
    keys = list(dict.fromkeys(key for run in runs for key in run.results.details.get("ood", {})))
    keys = [key for key in keys if not key.endswith("_teacher")]
    scores = ("knn", "energy", "msp", "mahalanobis")

    def place(key: str) -> int:
        score = key.partition("_")[0]
        return scores.index(score) if score in scores else len(scores)

    return sorted(keys, key=place)[:limit]


def ood_histograms(runs: Runs, key: str, group_styles: GroupStyles | None = None) -> Figure | None:
    """Plot the scores of known images (filled) and unknown images (outlined): one row per group, for its first seed."""
    group_styles = group_styles or styles(runs.groups)
    first_runs: dict[str, RunResult] = {}
    for run in runs:
        if key in run.results.details.get("ood", {}):
            first_runs.setdefault(run.group, run)
    if not first_runs:
        return None
    figure = Figure(figsize=(WIDTH, 0.7 + 0.75 * len(first_runs)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(first_runs), 1, squeeze=False)[:, 0]
    for axes, (group, run) in zip(panels, first_runs.items(), strict=True):
        tidy(axes, "x")
        table = run.results.details["ood"][key]
        edges, color = table["edges"], group_styles[group].color
        known, unknown = (table[part] / max(table[part].sum(), 1e-12) for part in ("known", "unknown"))
        axes.stairs(known, edges, fill=True, color=color, alpha=0.35)
        axes.stairs(unknown, edges, color=INK, linewidth=1.2)
        axes.set_yticks([])
        axes.set_title(label(f"{group}, seed {run.seed}"), fontsize=9, loc="left", pad=3)
    tables = [run.results.details["ood"][key]["edges"] for run in first_runs.values()]
    if all(np.array_equal(edges, tables[0]) for edges in tables):
        for axes in panels[:-1]:
            axes.set_xticklabels([])
    score, _, data = key.partition("_")
    panels[-1].set_xlabel(label(f"{score}: filled known, outlined {data}", 56), fontsize=9)
    return figure


def corruption_curves(runs: Runs, group_styles: GroupStyles | None = None) -> Figure | None:
    """Plot the accuracy by severity, averaged over corruptions and seeds; the teacher is a dashed grey line."""
    group_styles = group_styles or styles(runs.groups)
    figure, axes = panel(2.7)
    handles, names, teacher = [], [], []
    for group in runs.groups:
        tables = [run.results.details["corruptions"] for run in runs.of(group) if "corruptions" in run.results.details]
        curves = [_over_corruptions(table, "accuracy") for table in tables]
        curves = [curve for curve in curves if curve is not None and len(curve) == len(tables[0]["severities"])]
        if not curves:
            continue
        style, severities = group_styles[group], tables[0]["severities"]
        axes.plot(severities, np.mean(curves, axis=0), color=style.color, linestyle=style.line, marker=style.marker)
        handles.append(Line2D([], [], color=style.color, linestyle=style.line, marker=style.marker, markersize=6))
        names.append(group)
        teacher += [(severities, _over_corruptions(table, "accuracy_teacher")) for table in tables]
    if not handles:
        return None
    known = next(((severities, curve) for severities, curve in teacher if curve is not None), None)
    if known and len(known[0]) == len(known[1]):
        axes.plot(*known, color=TEACHER_COLOR, linestyle=(0, (4, 2)), marker="*", markersize=9)
        handles.append(Line2D([], [], color=TEACHER_COLOR, linestyle=(0, (4, 2)), marker="*", markersize=9))
        names.append("teacher")
    axes.set_xticks(severities)
    axes.set_xlabel("severity", fontsize=9)
    axes.set_title("accuracy over corruptions, %", fontsize=10)
    legend(figure, handles, names)
    return figure


def corruption_gaps(runs: Runs, baseline: str) -> Figure | None:
    """Plot the mean accuracy for each corruption minus that of the baseline, in percentage points, as a heat map."""
    means: dict[str, dict[str, float]] = {}
    for group in runs.groups:
        values_by_name: dict[str, list[float]] = {}
        for run in runs.of(group):
            for name, row in run.results.details.get("corruptions", {}).get("accuracy", {}).items():
                values_by_name.setdefault(name, []).append(float(np.nan_to_num(row).mean()))
        if values_by_name:
            means[group] = {name: float(np.mean(values)) for name, values in values_by_name.items()}
    reference = means.pop(baseline, None)
    rows = [name for name in reference or {} if all(name in table for table in means.values())]
    if not rows or not means:
        return None
    table = np.array([[100 * (means[group][row] - reference[row]) for group in means] for row in rows])
    order = np.argsort(table.mean(axis=1), kind="stable")
    return heat_map(table[order], [rows[n] for n in order], [*means], f"accuracy minus that of {baseline}, points")


def _class_accuracies(runs: Runs) -> dict[str, np.ndarray]:
    """Return K accuracies for each group, averaged over its seeds."""
    accuracies: dict[str, list[np.ndarray]] = {}
    for run in runs:
        if "per_class" in run.results.details:
            accuracies.setdefault(run.group, []).append(np.nan_to_num(run.results.details["per_class"]["accuracy"]))
    return {
        group: np.mean([row for row in rows if len(row) == len(rows[0])], axis=0) for group, rows in accuracies.items()
    }


def _reliability(runs: list[RunResult]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return confidence and accuracy of the non-empty bins, in per cent."""
    tables = [run.results.details["calibration"] for run in runs]
    tables = [table for table in tables if len(table["count"]) == len(tables[0]["count"])]
    if not tables:
        return None
    counts = np.stack([table["count"] for table in tables])
    total = counts.sum(axis=0)
    if not total.any():
        return None
    nonempty = total > 0
    parts = ("confidence", "accuracy")
    sums = [(np.nan_to_num([table[name] for table in tables]) * counts).sum(axis=0) for name in parts]
    confidence, accuracy = (100 * values[nonempty] / total[nonempty] for values in sums)
    return confidence, accuracy


def _over_corruptions(table: dict, name: str) -> np.ndarray | None:
    rows = [np.nan_to_num(row) for row in table[name].values()]
    return 100 * np.mean(rows, axis=0) if rows else None
