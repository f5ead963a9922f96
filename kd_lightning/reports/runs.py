"""Read finished runs from their folders, and report each problem with a run in one line."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from kd_lightning.reports.config import read_config
from kd_lightning.reports.folders import CONFIG, HISTORY, RESULTS, run_folders, state_and_command
from kd_lightning.reports.groups import grouped
from kd_lightning.reports.results import ResultsError, read_results
from kd_lightning.reports.run_results import RunResult, Runs, abbreviate
from kd_lightning.reports.values import printable


def read_runs(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> Runs:
    """Read finished runs.

    Args:
        paths: runs' folders, folders that contain runs, files in a run's folder, or patterns (`runs/**`).

    Returns:
        The runs with the labels of their groups, and one line for each problem. Problems are folders without results,
        results that cannot be read, unfinished runs, and runs that are given twice.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    folders, problems, repeated = run_folders(paths)
    if repeated:
        problems.append(
            "runs that are given more than once are read only once: "
            f"{abbreviate([_short(folder) for folder in repeated], 5)}"
        )
    runs, superseded = [], []
    for folder in folders:
        if not (folder / RESULTS).exists():
            if any((sibling / RESULTS).exists() for sibling in folder.parent.iterdir()):
                superseded.append(_short(folder))
            else:
                problems.append(f"{folder}: unfinished, because it has no {RESULTS}; {state_and_command(folder)}")
            continue
        try:
            results, skipped = read_results(folder / RESULTS)
        except ResultsError as error:
            problems.append(f"{folder}: {error}")
            continue
        config, config_problem = read_config(folder / CONFIG)
        history, history_problem = _history(folder / HISTORY)
        problems += [f"{folder}: {line}" for line in (*skipped, config_problem, history_problem) if line]
        runs.append(RunResult(folder, results, config, history))
    if superseded:
        problems.append(
            f"unfinished runs are skipped if another run of the same name is finished: {abbreviate(superseded, 5)}"
        )
    labelled, group_problems = grouped(runs)
    compared = {run.folder for run, _ in labelled}
    return Runs(
        [replace(run, group=label) for run, label in labelled],
        [printable(line, 600) for line in (*problems, *group_problems)],
        [run for run in runs if run.folder not in compared],
    )


def _history(path: Path) -> tuple[pd.DataFrame, str | None]:
    if not path.is_file():
        return pd.DataFrame(), f"{path.name} is missing, so there are no learning curves"
    try:
        table = pd.read_csv(path, low_memory=False, encoding_errors="replace")
        return table.apply(pd.to_numeric, errors="coerce"), None
    except (OSError, ValueError, pd.errors.ParserError) as error:
        return pd.DataFrame(), f"{path.name} cannot be read ({printable(error, 80)}), so there are no learning curves"


def _short(folder: Path) -> str:
    return "/".join(folder.parts[-2:])
