"""Find the checkpoint that a run's folder means. All commands, `load_run` and the notebooks use this module."""

import json
import os
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import expand, read_text, resolve
from kd_lightning.io.safe_yaml import load_yaml
from kd_lightning.runs.results import FILE as RESULTS
from kd_lightning.runs.status import in_words

CONFIG, BEST, LAST, STUDENT = "config.yaml", "best.ckpt", "last.ckpt", "student.safetensors"
WEIGHTS = (".ckpt", ".safetensors")
_MARKS = (RESULTS, BEST, LAST, STUDENT, "state.json", "metrics.csv")
"""Files of a run. A folder with config.yaml and one of these files is the folder of a run."""
_DEPTHS = ("", "*/", "*/*/", "*/*/*/")
"""Patterns by which the folders of runs are found below another folder."""
_SHOWN = 3


class Selected(NamedTuple):
    """A file with the weights of a run."""

    file: Path
    reason: str
    """Why this file is used, as the end of a sentence. Empty if the user gave the path of the file itself."""
    instead: bool = False
    """Whether this file is used because the run has no selected checkpoint."""

    @property
    def config(self) -> Path:
        """Path of the config.yaml in the folder of the file. It need not exist."""
        return self.file.with_name(CONFIG)

    def line(self, field: str = "ckpt_path") -> str:
        """Return one line that says which file is used and why, or '' if the user gave the file itself."""
        return f"{field}: {self.file} is used, {self.reason}" if self.reason else ""


def selected(path: str | os.PathLike[str], field: str = "run", *, student: bool = False) -> Selected:
    """Return the checkpoint that a path means.

    The path of a file means this file. The path of a run's folder, or of the config.yaml in it, means the selected
    checkpoint of the run, which results.json names. If the run has no results.json because it has not finished, it
    means best.ckpt, or last.ckpt if there is no best.ckpt or if the config has `protocol.select: last`.

    Args:
        path: path of a run's folder, of its config.yaml, or of a file in it.
        field: field of the path, for error messages.
        student: whether student.safetensors is used if the folder contains no checkpoint.

    Raises:
        ConfigError: if the path does not exist, or if the folder contains no checkpoint. The message contains the
            nearest folders of runs, the newest first.
    """
    try:
        given = resolve(path, field)
    except ConfigError as error:
        runs = nearest_runs(expand(path).parent, "newest runs")
        line = str(error).partition("; choices: ")[0] if runs else str(error)  # all files of the folder
        raise ConfigError(f"{line}{runs}") from error
    if given.is_dir() or given.name == CONFIG:
        folder = given if given.is_dir() else given.parent
        return _in_folder(folder, field, student)
    return Selected(given, "")


def is_run(folder: Path) -> bool:
    """Return whether a folder is the folder of a run: it contains config.yaml and another file of a run."""
    return (folder / CONFIG).is_file() and any((folder / name).is_file() for name in _MARKS)


def result(folder: Path, part: str, key: str) -> Any:
    """Return a value from a run's results.json. Return None if the file is missing, damaged or without this value."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return json.loads(read_text(folder / RESULTS))[part][key]
    return None


def _in_folder(folder: Path, field: str, student: bool) -> Selected:
    evaluated = result(folder, "protocol", "checkpoint")
    named = isinstance(evaluated, str) and Path(evaluated).name == evaluated
    if named and (folder / evaluated).is_file():
        return Selected(folder / evaluated, "the selected checkpoint of the run")
    names = [LAST, BEST] if _selects_last(folder) else [BEST, LAST]
    reason = f"because the selected checkpoint {evaluated} is missing"
    if not named:
        reason = f"because the run {in_words(folder)}, and has no {RESULTS}"
    for name in names:
        if (folder / name).is_file():
            return Selected(folder / name, reason, instead=True)
    if student and (folder / STUDENT).is_file():
        return Selected(folder / STUDENT, "because the run has no checkpoint", instead=True)
    names = [*dict.fromkeys([*([evaluated] if named else []), BEST, LAST])]
    raise ConfigError(
        f"{field}: {folder} contains no checkpoint ({' or '.join(names)}); give the folder of a run with a checkpoint"
        f"{nearest_runs(folder, 'runs below it')}"
    )


def argument_of_data(folder: Path, name: str) -> Any:
    """Return an argument of the data set in a run's config.yaml; None if the file or the argument is missing."""
    return _setting(folder, "data", "init_args", name)


def _selects_last(folder: Path) -> bool:
    return _setting(folder, "protocol", "select") == "last"


def _setting(folder: Path, *keys: str) -> Any:
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError):
        return reduce(lambda part, key: part[key], keys, load_yaml(read_text(folder / CONFIG)))
    return None


def nearest_runs(folder: Path, words: str) -> str:
    """Return the end of an error message with the newest runs below a folder; otherwise with the newest in runs/."""
    here = Path.cwd()
    below = [] if folder.resolve() in (here, *here.parents, Path.home()) else _runs_below(folder)
    if below:
        names = [str(run.relative_to(folder)) if words == "runs below it" else str(run) for run in below]
    else:
        words, names = "newest runs", [str(run) for run in _runs_below(Path("runs"))]
    return f"; {words}: {', '.join(names)}" if names else ""


def _runs_below(folder: Path) -> list[Path]:
    """Return the folders of the newest runs with weights, the newest first."""
    configs = [config for depth in _DEPTHS for config in folder.glob(f"{depth}{CONFIG}") if config.parent != folder]
    found: dict[Path, float] = {}
    for config in configs:
        with suppress(OSError):
            if any((config.parent / name).is_file() for name in (BEST, LAST, STUDENT)):
                found[config.parent] = config.stat().st_mtime
    return sorted(found, key=lambda run: (-found[run], str(run)))[:_SHOWN]
