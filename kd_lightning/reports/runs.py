"""Reading finished runs from their folders: what is wrong with one is said in a line, and the others are read."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from kd_lightning.reports.config import read_config
from kd_lightning.reports.folders import CONFIG, HISTORY, RESULTS, run_folders, to_finish
from kd_lightning.reports.groups import grouped
from kd_lightning.reports.results import ResultsError, read_results
from kd_lightning.reports.run_results import RunResult, Runs, some
from kd_lightning.reports.values import printable


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
