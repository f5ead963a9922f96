"""The printed table of a test's results."""

from collections.abc import Mapping

from rich.console import Group
from rich.table import Table

from kd_lightning.io.console import titled

COUNTS = ("parameters", "macs")
"""Ends of the names of metrics that are whole numbers."""


def table(metrics: Mapping[str, float], title: str = "result") -> Group:
    """Return a table with a title, one row per metric, and a column for the student.

    If any metric has a value of the teacher, the table also has a column for the teacher.
    """
    student = {name: value for name, value in metrics.items() if not name.endswith("_teacher")}
    teacher = {name.removesuffix("_teacher"): value for name, value in metrics.items() if name.endswith("_teacher")}
    result = Table()
    result.add_column("")
    result.add_column("student", justify="right")
    if teacher:
        result.add_column("teacher", justify="right")
    for name in dict.fromkeys([*student, *teacher]):
        cells = [_text(name, student.get(name)), *([_text(name, teacher.get(name))] if teacher else [])]
        result.add_row(name, *cells)
    return titled(title, result)


def _text(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if name.endswith(COUNTS) else f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"
