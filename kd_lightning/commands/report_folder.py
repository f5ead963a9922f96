"""The folder of a report: an earlier report is replaced only if all of its runs are compared again."""

import csv
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from kd_lightning.io.markup import cell
from kd_lightning.io.paths import numbered, read_text

if TYPE_CHECKING:
    from kd_lightning import reports

TABLE = "table.csv"
WRITTEN = ("report.html", TABLE, "table.md", "wandb.json")
"""Names of the files of a report."""
KEYS = ("project", "name", "id")
"""Columns of table.csv that identify a run."""
Identity = tuple[str, ...]


def foreign(folder: Path) -> list[str]:
    """Return the names of the files in a folder that do not belong to a report."""
    return sorted(path.name for path in folder.iterdir() if path.name not in WRITTEN) if folder.is_dir() else []


def identities(runs: "reports.Runs") -> set[Identity]:
    """Return the values of KEYS, as in table.csv, of the runs that are compared or superseded by compared runs."""
    found = [*runs, *runs.superseded]
    facts = [(run.results.run["project"], run.name, run.results.run["id"]) for run in found]
    return {tuple(str(cell(value or "")) for value in values) for values in facts}


def folder_for(runs: "reports.Runs", folder: Path) -> Path:
    """Return the folder for a report: `folder`, or the first of `folder-2`, `folder-3`, ... that may be written.

    A folder may be written if it does not exist, if it is empty, or if its report contains no other runs.

    Args:
        runs: all runs of the new report.
        folder: the folder that the user has given.
    """
    known = identities(runs)
    return next(place for place in numbered(folder) if _may_be_written(place, known))


def _may_be_written(folder: Path, runs: set[Identity]) -> bool:
    if not folder.exists():
        return True
    if not folder.is_dir() or foreign(folder):
        return False
    earlier = _runs_of(folder / TABLE)
    return earlier <= runs if earlier is not None else not any(folder.iterdir())


def _runs_of(table: Path) -> set[Identity] | None:
    """Return project, name and id of the runs in a table of `compare`; None if the table cannot be read."""
    try:
        rows = csv.DictReader(StringIO(read_text(table)))
        return {tuple(row[key] for key in KEYS) for row in rows} if {*KEYS} <= {*(rows.fieldnames or ())} else None
    except (OSError, ValueError, csv.Error):
        return None
