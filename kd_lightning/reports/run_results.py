"""RunResult: one finished run. Runs: all runs that are compared."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from kd_lightning.reports.results import Results
from kd_lightning.reports.values import printable
from kd_lightning.words import counted


@dataclass(frozen=True)
class RunResult:
    """One finished run."""

    folder: Path
    results: Results
    config: dict[str, Any] = field(default_factory=dict)
    """config.yaml as nested dicts; {} if it is missing."""
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Numbers of metrics.csv: epoch, step, train/loss, ... A row has the values that were logged together."""
    group: str = ""
    """Label of the group, which contains all runs that differ from this run only in their seed."""

    @property
    def name(self) -> str:
        return self.results.run["name"] or printable(self.folder.parent.name) or "run"

    @property
    def seed(self) -> int | None:
        return self.results.run["seed"]

    @property
    def method(self) -> str:
        return self.results.run["method"] or "unknown method"

    @property
    def metrics(self) -> dict[str, float]:
        return self.results.metrics

    @property
    def data_set(self) -> tuple[str, int | None]:
        """Name and number of classes of the data set; only runs of the same data set are compared."""
        return self.results.data["name"] or "unknown data", self.results.data["classes"]


@dataclass(frozen=True)
class Runs:
    """Runs that can be compared, and one line for each problem with these runs or with skipped runs."""

    runs: list[RunResult]
    problems: list[str] = field(default_factory=list)
    superseded: list[RunResult] = field(default_factory=list)
    """Runs that are not compared, because a later run has the same config and seed."""

    def __iter__(self) -> Iterator[RunResult]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def groups(self) -> list[str]:
        """Labels of the groups, in order of appearance."""
        return list(dict.fromkeys(run.group for run in self.runs))

    def of(self, group: str) -> list[RunResult]:
        """Return the runs of a group, sorted by seed."""
        return [run for run in self.runs if run.group == group]

    def by_data_set(self) -> dict[str, "Runs"]:
        """Return the runs by the name of their data set.

        If two data sets have the same name, the number of classes is added, such as `photos (8 classes)`.
        """
        sets = list(dict.fromkeys(run.data_set for run in self.runs))
        names = [name for name, _ in sets]
        return {
            name if names.count(name) == 1 else f"{name} ({_classes(classes)})": Runs(
                [run for run in self.runs if run.data_set == (name, classes)]
            )
            for name, classes in sets
        }


def _classes(number: int | None) -> str:
    if number is None:
        return "unknown classes"
    return counted(number, "class", "classes") if number else "no labels"


def abbreviate(names: list[str], limit: int = 6) -> str:
    """Return the first names and the number of the other names, as text."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
