"""Find the folders of runs, and suggest commands for unfinished ones."""

import glob
import os
import shlex
from pathlib import Path

from kd_lightning.errors import nearest
from kd_lightning.io.paths import expand, open_regular
from kd_lightning.runs.results import FILE as RESULTS
from kd_lightning.runs.status import in_words

CONFIG, HISTORY = "config.yaml", "metrics.csv"


def run_folders(paths: list[str | os.PathLike]) -> tuple[list[Path], list[str], list[Path]]:
    """Return the folders of all runs (also unfinished runs), lines about problems, and runs that were given twice."""
    folders: dict[Path, Path] = {}
    problems, repeated = [], {}
    for path_or_pattern in paths:
        path = expand(path_or_pattern)
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            siblings = os.listdir(path.parent) if path.parent.is_dir() else []
            problems.append(f"{path}: it does not exist{nearest(path.name, siblings)}")
        before = {*folders}
        for match in matches:
            runs = _below(match if match.is_dir() else match.parent)
            if not runs and match.is_dir() and not _within_a_run(match):
                problems.append(
                    f"{match}: it contains no run; the folder of a run has {CONFIG}, and {RESULTS} if it is finished"
                )
            for run in runs:
                if run.resolve() in before:
                    repeated[run.resolve()] = run
                folders.setdefault(run.resolve(), run)
    return list(folders.values()), problems, list(repeated.values())


def _below(folder: Path) -> list[Path]:
    runs = []
    for path, subfolders, files in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if name != "wandb" and not name.startswith("."))
        if RESULTS in files or (CONFIG in files and _is_a_runs(Path(path) / CONFIG)):
            runs.append(Path(path))
            subfolders.clear()
    return runs


def _within_a_run(folder: Path) -> bool:
    """Return whether a folder is a subfolder of a run, such as `wandb`; a pattern with `**` also matches these."""
    return any(
        (parent / RESULTS).exists() or (parent / HISTORY).exists() for parent in [*folder.absolute().parents][:6]
    )


def _is_a_runs(config: Path) -> bool:
    """Return whether `fit` has written this config; a person or W&B may have written other files of this name."""
    try:
        with open_regular(config) as file:
            return b"\nmodel:" in file.read(1_000_000)
    except OSError:
        return False


def state_and_command(folder: Path) -> str:
    """Return the state of a run without results, and the command that computes the results."""
    config, last = folder / CONFIG, folder / "last.ckpt"
    if (folder / "student.safetensors").exists() and last.exists():  # written at the end of training
        return f"python -m kd_lightning test {shlex.quote(str(folder))} evaluates it"
    state, action = in_words(folder), "resumes it" if last.exists() else "runs it"
    if state.startswith("is running"):
        return f"it {state}"
    arguments = shlex.join(["--run.output_dir", str(folder.absolute().parents[2]), "--run.id", folder.name])
    return f"it {state}: python -m kd_lightning fit --config {config} {arguments} --ckpt_path last {action}"
