"""RunResult, one finished run as a report sees it, and Runs, those that are compared."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from kd_lightning.reports.results import Results
from kd_lightning.reports.values import printable


@dataclass(frozen=True)
class RunResult:
    """One finished run."""

    folder: Path
    results: Results
    config: dict[str, Any] = field(default_factory=dict)
    """config.yaml as nested tables; {} where it is missing."""
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    """metrics.csv, numbers alone: epoch, step, train/loss, ...; a row holds what was logged together."""
    group: str = ""
    """The label of the runs that differ from this one in their seed alone."""

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
        """Name and number of classes: runs that differ in it are not compared."""
        return self.results.data["name"] or "unknown data", self.results.data["classes"]


@dataclass(frozen=True)
class Runs:
    """Runs that can be compared, and a line for everything that is wrong with others or with them."""

    runs: list[RunResult]
    problems: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[RunResult]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def groups(self) -> list[str]:
        """Labels, in order of appearance."""
        return list(dict.fromkeys(run.group for run in self.runs))

    def of(self, group: str) -> list[RunResult]:
        """The runs of a group, by seed."""
        return [run for run in self.runs if run.group == group]

    def by_data_set(self) -> dict[str, "Runs"]:
        """The runs of each data set, by its name (with its number of classes where the name alone says too little)."""
        sets = list(dict.fromkeys(run.data_set for run in self.runs))
        names = [name for name, _ in sets]
        return {
            name if names.count(name) == 1 else f"{name}, {classes} classes": Runs(
                [run for run in self.runs if run.data_set == (name, classes)]
            )
            for name, classes in sets
        }


def some(names: list[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
