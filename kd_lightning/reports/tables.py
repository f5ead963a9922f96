"""Comparisons as tables for pandas, for Markdown and for the terminal."""

import math
from collections.abc import Iterable

import pandas as pd
from rich.console import Group
from rich.table import Table

from kd_lightning.io.console import titled
from kd_lightning.io.markup import markdown as escaped
from kd_lightning.reports.axes import Metric
from kd_lightning.reports.comparison import Comparison
from kd_lightning.reports.effects import text_of
from kd_lightning.reports.frame import teachers
from kd_lightning.reports.varied import titles
from kd_lightning.words import counted

TESTS = {"t": "paired t-test", "wilcoxon": "Wilcoxon's signed-rank test"}


def mean_and_std(metric: Metric, row: pd.Series) -> str:
    """Return mean and standard deviation as `76.5 ± 0.5 %`, without ± if there is one value or all values are equal."""
    if not math.isfinite(row["mean"]):
        return "-"
    if not row["std"] > 1e-12 * abs(row["mean"]):
        return metric.show(row["mean"])
    places = metric.digits(row["mean"] * metric.scale)
    return f"{metric.show(row['mean'], bare=True)} ± {row['std'] * metric.scale:,.{places}f} {metric.unit}".strip()


def difference(metric: Metric, row: pd.Series) -> str:
    """Return a difference as `+1.2 [0.3, 2.1]`, or as `+1.2` if it has no interval; for %, in percentage points."""
    if not math.isfinite(row["difference"]):
        return ""
    text = metric.show(row["difference"], signed=True, bare=True)
    if not math.isfinite(row["low"]):
        return text
    return f"{text} [{metric.show(row['low'], bare=True)}, {metric.show(row['high'], bare=True)}]"


def p_value(value: float) -> str:
    """Return a p-value as `0.012`, or as `<0.001`."""
    if not math.isfinite(value):
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def summary(comparison: Comparison, metric: Metric | None = None) -> pd.DataFrame:
    """Return the summary of one metric for `table.md` and the terminal: one row of texts per group.

    The first columns are the settings that differ between groups of the same method.
    """
    metric = metric or comparison.about
    varied = {title: comparison.varied[name] for name, title in titles(comparison.varied).items()}
    rows = {}
    for group, row in comparison.statistics[metric.name].iterrows():
        pairs = f"{row['pairs']} of {row['n']}" if row["pairs"] != row["n"] else str(row["n"])
        rows[group] = {
            **{title: text_of(values.get(group, "")) for title, values in varied.items()},
            metric.heading: mean_and_std(metric, row),
            "n": str(row["n"]),
            "difference": difference(metric, row),
            "pairs": "" if row["note"] == "baseline" else pairs,
            "p": p_value(row["p_holm"]),
            "note": row["note"],
        }
    for name, value in teachers(comparison.frame, metric.name).items():
        rows[f"{name}, teacher"] = {metric.heading: metric.show(value), "note": "teacher"}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def column_notes(comparison: Comparison) -> str:
    """Return an explanation of the columns of a summary."""
    meaning = "Values are mean ± standard deviation over seeds."
    if len(comparison.runs.groups) < 2:
        return meaning
    return (
        f"{meaning} Differences to {comparison.baseline} are computed between "
        "runs with the same seed, and have a 95 % t-interval (differences of percentages are in points). p is from the "
        f"{TESTS[comparison.test]}, corrected by Holm for the comparisons of one metric."
    )


def protocol(comparison: Comparison) -> str:
    """Return the images, the checkpoint and the seeds of a comparison as text."""
    table, split = comparison.frame, comparison.metric.partition("/")[0]
    names = {"test": "test", "val": "validation"}
    counts = table[f"{split}_images"].dropna().unique() if f"{split}_images" in table else []
    images = f"{' or '.join(f'{int(count):,} ' for count in counts)}{names.get(split, '')} images".strip()
    epochs = {"best": "the best epoch by validation accuracy", "last": "the last epoch"}
    evaluated = (
        " or ".join(epochs.get(select, str(select)) for select in table["select"].dropna().unique()) or "unknown epoch"
    )
    seeds = sorted({int(seed) for seed in table["seed"].dropna()})
    seed_text = (
        f"seed{'s' if len(seeds) != 1 else ''} {', '.join(map(str, seeds[:12]))}{', ...' if len(seeds) > 12 else ''}"
    )
    return f"{images} of {comparison.data}; evaluated: {evaluated}; {seed_text if seeds else 'no seeds known'}"


def markdown(comparisons: Iterable[Comparison], warnings: Iterable[str]) -> str:
    """Return the warnings, the summary of each data set, and tables of all metrics, as Markdown."""
    lines = ["# Comparison of runs", ""]
    lines += [f"- Warning: {escaped(line)}" for line in warnings]
    for comparison in comparisons:
        lines += ["", f"## {escaped(comparison.data)}", "", escaped(protocol(comparison)) + ".", ""]
        lines += [f"- Warning: {escaped(line)}" for line in comparison.warnings]
        lines += ["", f"### {escaped(comparison.about.title)}", "", *_table(summary(comparison))]
        lines += ["", escaped(column_notes(comparison))]
        for axis, metrics in comparison.axes.items():
            lines += ["", f"### {escaped(axis)}", "", *_table(axis_table(comparison, metrics))]
    return "\n".join(lines) + "\n"


def axis_table(comparison: Comparison, metrics: Iterable[Metric]) -> pd.DataFrame:
    """Return a table with one row per group or teacher, and one column per metric.

    A cell is a text such as `76.5 ± 0.5 %; +1.2 [0.3, 2.1], p 0.012`.
    """
    columns = {}
    for metric in metrics:
        cells = {}
        for group, row in comparison.statistics[metric.name].iterrows():
            parts = [difference(metric, row), f"p {p_value(row['p_holm'])}" if p_value(row["p_holm"]) else ""]
            cells[group] = "; ".join(filter(None, [mean_and_std(metric, row), ", ".join(filter(None, parts))]))
        for name, value in teachers(comparison.frame, metric.name).items():
            cells[f"{name}, teacher"] = metric.show(value)
        columns[metric.heading] = cells
    return pd.DataFrame(columns).fillna("")


def for_terminal(comparison: Comparison) -> Group:
    """Return the summary of a comparison's main metric as a table for rich, with long values on several lines."""
    cells = summary(comparison)
    table = Table()
    table.add_column("", overflow="fold")
    for column in cells.columns:
        table.add_column(column, overflow="fold", justify="left" if column == "note" else "right")
    best = comparison.best(comparison.about)
    for group, row in cells.iterrows():
        table.add_row(str(group), *map(str, row), style="bold" if group in best else None)
    return titled(f"{comparison.data}: {counted(len(comparison.runs), 'run')}", table)


def _table(cells: pd.DataFrame) -> list[str]:
    rows = [["", *cells.columns], ["---"] * (1 + len(cells.columns))]
    rows += [[str(index), *row] for index, row in zip(cells.index, cells.astype(str).values.tolist(), strict=True)]
    return [f"| {' | '.join(escaped(cell) if cell != '---' else cell for cell in row)} |" for row in rows]
