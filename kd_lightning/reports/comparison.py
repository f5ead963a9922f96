"""Comparison: the runs of one data set, their baseline, statistics and warnings."""

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from kd_lightning.errors import ConfigError, nearest
from kd_lightning.reports import effects
from kd_lightning.reports.axes import Metric, describe, main_metric
from kd_lightning.reports.baseline import default_baseline
from kd_lightning.reports.comparable import comparability
from kd_lightning.reports.config import comparable_settings, differing_settings
from kd_lightning.reports.frame import MOST_METRICS, frame, metrics_of, not_compared, without_excess
from kd_lightning.reports.run_results import Runs
from kd_lightning.reports.statistics import Test, against_baseline
from kd_lightning.reports.varied import NOT_SHOWN, Varied, varied
from kd_lightning.words import listed


@dataclass(frozen=True)
class Comparison:
    """The runs of one data set, and their comparison with a baseline.

    Args:
        data: name of the data set.
        runs: runs of this data set.
        baseline: name of the group that is the baseline.
        metric: main metric, which is a column of the frame.
        test: statistical test of the differences. A run and the baseline's run with the same seed form a pair.
    """

    data: str
    runs: Runs
    baseline: str
    metric: str
    test: Test = "t"

    @cached_property
    def frame(self) -> pd.DataFrame:
        return without_excess(frame(self.runs))

    @cached_property
    def metrics(self) -> list[Metric]:
        """The metrics, sorted by axis."""
        return metrics_of(self.frame)

    @cached_property
    def statistics(self) -> dict[str, pd.DataFrame]:
        """Results of `against_baseline` for each metric, by its name."""
        return {
            metric.name: against_baseline(self.frame, metric.name, self.baseline, test=self.test)
            for metric in self.metrics
        }

    @cached_property
    def warnings(self) -> list[str]:
        return comparability(self.runs, self.baseline, test=self.test)

    @cached_property
    def varied(self) -> Varied:
        """The settings that differ between groups of the same method: by name, a dict of the values by group."""
        return varied(self.runs)

    @property
    def axes(self) -> dict[str, list[Metric]]:
        """The metrics of each axis, by the name of the axis."""
        axes: dict[str, list[Metric]] = {}
        for metric in self.metrics:
            axes.setdefault(metric.axis, []).append(metric)
        return axes

    @property
    def about(self) -> Metric:
        return describe(self.metric)

    def settings(self) -> dict[str, dict[str, object]]:
        """Return the settings that differ between groups: by key, a dict of the values by group."""
        configs = {group: comparable_settings(self.runs.of(group)[0].config) for group in self.runs.groups}
        known = {group: config for group, config in configs.items() if config}
        return {key: values for key, values in differing_settings(known).items() if key not in NOT_SHOWN}

    def best(self, metric: Metric) -> set[str]:
        """Return the groups with the best displayed mean.

        The set is empty if all means are equal, or if neither higher nor lower values are better.
        """
        means = self.statistics[metric.name]["mean"].dropna()
        if metric.better is None or len(means) < 2:
            return set()
        formatted = means.map(metric.show)
        top = formatted[means.idxmax() if metric.better == "higher" else means.idxmin()]
        best = {group for group, text in formatted.items() if text == top}
        return set() if len(best) == len(means) else best


def compare(
    runs: Runs, *, baseline: str | None = None, metric: str | None = None, test: Test = "t"
) -> tuple[list[Comparison], list[str]]:
    """Return one comparison for each data set, in which the baseline is first, and general warnings.

    Args:
        runs: a result of `read_runs`.
        baseline: name of the group that is the baseline. Default: see `default_baseline`.
        metric: main metric. Default: the first of `axes.MAIN_METRICS` that every group has. This is usually test/acc;
            for runs without labels, it is the metric of an evaluator.
        test: statistical test of the differences. A run and the baseline's run with the same seed form a pair.

    Raises:
        ConfigError: if there are no runs, no group with the name of the baseline, or no run with the metric.
    """
    if not len(runs):
        first_problem = f": {runs.problems[0]}" if runs.problems else ""
        raise ConfigError(f"runs: no run can be compared{first_problem}")
    if baseline is not None and baseline not in runs.groups:
        raise ConfigError(f"baseline: there is no group {baseline!r}{nearest(baseline, runs.groups)}")
    names = [known.name for known in metrics_of(frame(runs))]
    if metric is not None and metric not in names:
        raise ConfigError(f"metric: no run has {metric!r}{nearest(metric, names)}")
    comparisons, lines = [], []
    sets = runs.by_data_set()
    if len(sets) > 1:
        lines.append(f"runs of {len(sets)} data sets, compared separately: {listed([*sets])}")
    for data, unordered in sets.items():
        members = Runs(effects.in_order(unordered))
        table = frame(members)
        metric_names = [known.name for known in metrics_of(table)]
        if left := len(not_compared(table)):
            lines.append(
                f"{data}: the first {MOST_METRICS} metrics are compared; table.csv contains the other {left:,}"
            )
        main_name = metric if metric in metric_names else _main(members, metric_names)
        if main_name is None:
            lines.append(f"{data}: nothing can be compared, because none of its runs has metrics")
            continue
        if metric is not None and main_name != metric:
            lines.append(f"{data}: no run has {metric}; {main_name} is used instead")
        group_baseline, choice = (baseline, None) if baseline in members.groups else default_baseline(members)
        if baseline is not None and group_baseline != baseline:
            lines.append(f"{data}: there is no group {baseline}; {group_baseline} is the baseline instead")
        elif choice:
            lines.append(f"{data}: {choice}")
        baseline_first = Runs(sorted(members, key=lambda run: run.group != group_baseline))
        comparisons.append(Comparison(data, baseline_first, group_baseline, main_name, test))
    if not comparisons:
        raise ConfigError(f"runs: {'; '.join(lines)}")
    return comparisons, lines


def _main(runs: Runs, names: list[str]) -> str | None:
    tables = [{name for run in runs.of(group) for name in run.metrics} for group in runs.groups]
    common = main_metric([name for name in names if name.startswith("test/") and all(name in t for t in tables)])
    return common or main_metric(names)
