"""Comparison of finished runs by tables, statistics, plots and an HTML page, for `compare` and the notebooks."""

from kd_lightning.reports.axes import Metric, describe
from kd_lightning.reports.comparison import Comparison, compare
from kd_lightning.reports.frame import frame, metrics_of, teachers
from kd_lightning.reports.page import page
from kd_lightning.reports.run_results import RunResult, Runs
from kd_lightning.reports.runs import read_runs
from kd_lightning.reports.statistics import against_baseline, holm
from kd_lightning.reports.style import styles

__all__ = [
    "Comparison",
    "Metric",
    "RunResult",
    "Runs",
    "against_baseline",
    "compare",
    "describe",
    "frame",
    "holm",
    "metrics_of",
    "page",
    "read_runs",
    "styles",
    "teachers",
]
