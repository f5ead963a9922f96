"""Comparison: the runs of one data set, their baseline, and what is worked out about them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from kd_lightning.errors import ConfigError, nearest
from kd_lightning.reports.axes import Metric, describe, main_metric
from kd_lightning.reports.comparable import comparability
from kd_lightning.reports.config import compared, differing
from kd_lightning.reports.frame import frame, metrics_of
from kd_lightning.reports.run_results import Runs
from kd_lightning.reports.statistics import Test, against_baseline

_NOT_SHOWN = ("data.path", "data.split_seed")


@dataclass(frozen=True)
class Comparison:
    """Runs of one data set against a baseline.

    Args:
        data: what the data set is called.
        runs: of that data set alone.
        baseline: a group.
        metric: what the comparison is about, a column of the frame.
        test: of differences paired by seed.
    """

    data: str
    runs: Runs
    baseline: str
    metric: str
    test: Test = "t"

    @cached_property
    def frame(self) -> pd.DataFrame:
        return frame(self.runs)

    @cached_property
    def metrics(self) -> list[Metric]:
        """Axis by axis."""
        return metrics_of(self.frame)

    @cached_property
    def statistics(self) -> dict[str, pd.DataFrame]:
        """Of every metric, as `against_baseline` gives them."""
        return {
            metric.name: against_baseline(self.frame, metric.name, self.baseline, test=self.test)
            for metric in self.metrics
        }

    @cached_property
    def warnings(self) -> list[str]:
        return comparability(self.runs, self.baseline, test=self.test)

    @property
    def axes(self) -> dict[str, list[Metric]]:
        """The metrics of each axis."""
        axes: dict[str, list[Metric]] = {}
        for metric in self.metrics:
            axes.setdefault(metric.axis, []).append(metric)
        return axes

    @property
    def about(self) -> Metric:
        return describe(self.metric)

    def settings(self) -> dict[str, dict[str, object]]:
        """Settings that are not the same for all groups: key to group to value."""
        configs = {group: compared(self.runs.of(group)[0].config) for group in self.runs.groups}
        known = {group: config for group, config in configs.items() if config}
        return {key: values for key, values in differing(known).items() if key not in _NOT_SHOWN}

    def best(self, metric: Metric) -> set[str]:
        """The groups with the best mean, as it is shown; none where all are alike or no way is better."""
        means = self.statistics[metric.name]["mean"].dropna()
        if metric.better is None or len(means) < 2:
            return set()
        shown = means.map(metric.show)
        top = shown[means.idxmax() if metric.better == "higher" else means.idxmin()]
        best = {group for group, text in shown.items() if text == top}
        return set() if len(best) == len(means) else best


def compare(
    runs: Runs, *, baseline: str | None = None, metric: str | None = None, test: Test = "t"
) -> tuple[list[Comparison], list[str]]:
    """A comparison for each data set, the baseline first, and a line for what holds for all of them.

    Args:
        runs: as `read_runs` gives them.
        baseline: a group; default: the one of Supervised, else the first.
        metric: what it is about; default: test/acc, or what comes next in `axes.MAIN` and every group has (where one
            was trained without labels, a probe).
        test: of differences paired by seed.

    Raises:
        ConfigError: where there are no runs, or no run of that baseline or with that metric.
    """
    if not len(runs):
        first = f": {runs.problems[0]}" if runs.problems else ""
        raise ConfigError(f"runs: none that can be compared{first}")
    if baseline is not None and baseline not in runs.groups:
        raise ConfigError(f"baseline: there is no group {baseline!r}{nearest(baseline, runs.groups)}")
    names = [known.name for known in metrics_of(frame(runs))]
    if metric is not None and metric not in names:
        raise ConfigError(f"metric: no run has {metric!r}{nearest(metric, names)}")
    comparisons, lines = [], []
    sets = runs.by_data_set()
    if len(sets) > 1:
        lines.append(f"runs of {len(sets)} data sets, compared each within its own: {', '.join(sets)}")
    for data, some in sets.items():
        have = [known.name for known in metrics_of(frame(some))]
        about = metric if metric in have else _main(some, have)
        if about is None:
            lines.append(f"{data}: nothing to compare, its {len(some)} runs have no metrics")
            continue
        if metric is not None and about != metric:
            lines.append(f"{data}: no run has {metric}; {about} in its place")
        chosen = baseline if baseline in some.groups else _default_baseline(some)
        if baseline is not None and chosen != baseline:
            lines.append(f"{data}: there is no group {baseline}; {chosen} is the baseline")
        first = Runs(sorted(some, key=lambda run: run.group != chosen))
        comparisons.append(Comparison(data, first, chosen, about, test))
    if not comparisons:
        raise ConfigError(f"runs: {'; '.join(lines)}")
    return comparisons, lines


def _main(runs: Runs, names: list[str]) -> str | None:
    tables = [{name for run in runs.of(group) for name in run.metrics} for group in runs.groups]
    common = main_metric([name for name in names if name.startswith("test/") and all(name in t for t in tables)])
    return common or main_metric(names)


def _default_baseline(runs: Runs) -> str:
    return _first(run.group for run in runs if run.method == "Supervised") or runs.groups[0]


def _first(groups: Iterable[str]) -> str | None:
    return next(iter(groups), None)
