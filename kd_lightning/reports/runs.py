"""Finished runs, read from their folders: what is wrong with one is said in a line, and the others are read."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from kd_lightning.reports.config import read_config
from kd_lightning.reports.folders import CONFIG, HISTORY, RESULTS, run_folders, to_finish
from kd_lightning.reports.groups import grouped
from kd_lightning.reports.results import Results, ResultsError, read_results
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


def read_runs(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> Runs:
    """Reads finished runs.

    Args:
        paths: runs' folders, folders above many, files in a run's folder, or patterns (`runs/**`).

    Returns:
        The runs, each with the label of its group, and what is wrong, a line each: folders without results, results
        that cannot be read, unfinished runs, runs given twice.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    folders, problems, again = run_folders(paths)
    if again:
        problems.append(f"given more than once, read once: {some([_short(folder) for folder in again], 5)}")
    runs, superseded = [], []
    for folder in folders:
        if not (folder / RESULTS).exists():
            if any((beside / RESULTS).exists() for beside in folder.parent.iterdir()):
                superseded.append(_short(folder))
            else:
                problems.append(f"{folder}: unfinished, it has no {RESULTS}; {to_finish(folder)}")
            continue
        try:
            results, left_out = read_results(folder / RESULTS)
        except ResultsError as error:
            problems.append(f"{folder}: {error}")
            continue
        config, why_not = read_config(folder / CONFIG)
        history, broken = _history(folder / HISTORY)
        problems += [f"{folder}: {line}" for line in (*left_out, why_not, broken) if line]
        runs.append(RunResult(folder, results, config, history))
    if superseded:
        problems.append(f"unfinished, beside a finished run of the same name, left out: {some(superseded, 5)}")
    labelled, more = grouped(runs)
    runs = [replace(run, group=label) for run, label in labelled]
    return Runs(runs, [printable(line, 600) for line in (*problems, *more)])


def _history(path: Path) -> tuple[pd.DataFrame, str | None]:
    if not path.is_file():
        return pd.DataFrame(), f"{path.name} is missing: it has no learning curves"
    try:
        table = pd.read_csv(path, low_memory=False, encoding_errors="replace")
        return table.apply(pd.to_numeric, errors="coerce"), None
    except (OSError, ValueError, pd.errors.ParserError) as error:
        return pd.DataFrame(), f"{path.name} cannot be read ({printable(error, 80)}): it has no learning curves"


def _short(folder: Path) -> str:
    return "/".join(folder.parts[-2:])


def some(names: list[str], most: int = 6) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
