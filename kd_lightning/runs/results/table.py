"""The result of a test on the screen."""

from collections.abc import Mapping

from rich.table import Table

COUNTS = ("cost/parameters", "cost/macs")


def table(metrics: Mapping[str, float]) -> Table:
    """One row a metric, the student's value and, where there is one, the teacher's beside it."""
    own = {name: value for name, value in metrics.items() if not name.endswith("_teacher")}
    theirs = {name.removesuffix("_teacher"): value for name, value in metrics.items() if name.endswith("_teacher")}
    shown = Table(title="result", title_justify="left")
    shown.add_column("")
    shown.add_column("student", justify="right")
    if theirs:
        shown.add_column("teacher", justify="right")
    for name in dict.fromkeys([*own, *theirs]):
        cells = [_shown(name, own.get(name)), *([_shown(name, theirs.get(name))] if theirs else [])]
        shown.add_row(name, *cells)
    return shown


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if name in COUNTS else f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"
