"""Where runs lie: folders of runs below what was named, and what is to be done about unfinished ones."""

import glob
import os
import shlex
from pathlib import Path

import yaml

from kd_lightning.errors import nearest
from kd_lightning.io.paths import expand
from kd_lightning.io.safe_yaml import load_yaml
from kd_lightning.runs.results import FILE as RESULTS
from kd_lightning.runs.status import in_words

CONFIG, HISTORY = "config.yaml", "metrics.csv"


def run_folders(paths: list[str | os.PathLike]) -> tuple[list[Path], list[str], list[Path]]:
    """Folders of runs, finished or not; problems; runs that were given more than once."""
    found: dict[Path, Path] = {}
    problems, again = [], {}
    for given in paths:
        path = expand(given)
        matches = [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            beside = os.listdir(path.parent) if path.parent.is_dir() else []
            problems.append(f"{path}: there is nothing{nearest(path.name, beside)}")
        before = {*found}
        for match in matches:
            runs = _below(match if match.is_dir() else match.parent)
            if not runs and match.is_dir() and not _within_a_run(match):
                problems.append(f"{match}: no run is in it; a run's folder has {CONFIG} and, when finished, {RESULTS}")
            for run in runs:
                if run.resolve() in before:
                    again[run.resolve()] = run
                found.setdefault(run.resolve(), run)
    return list(found.values()), problems, list(again.values())


def _below(folder: Path) -> list[Path]:
    runs = []
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if name != "wandb" and not name.startswith("."))
        if RESULTS in files or (CONFIG in files and _is_a_runs(Path(place) / CONFIG)):
            runs.append(Path(place))
            inner.clear()
    return runs


def _within_a_run(folder: Path) -> bool:
    """Whether it is a folder of a run's own (wandb's): a shell's ** gives these as well."""
    return any((above / RESULTS).exists() or (above / HISTORY).exists() for above in [*folder.absolute().parents][:6])


def _is_a_runs(config: Path) -> bool:
    """Whether it is a config that `fit` has written, and not one that a person did or W&B."""
    try:
        with config.open(encoding="utf-8", errors="replace") as file:
            return "\nmodel:" in file.read(1_000_000)
    except OSError:
        return False


def to_finish(folder: Path) -> str:
    """What has become of a run without results, and the command that gives it some."""
    config, best, last = (folder / name for name in (CONFIG, "best.ckpt", "last.ckpt"))
    if (folder / "student.safetensors").exists() and last.exists():  # written when training has come to its end
        evaluated = best if best.exists() and not _evaluates_last(config) else last
        return f"python -m kd_lightning test --config {config} --ckpt_path {evaluated} evaluates it"
    state, goes = in_words(folder), "goes on with it" if last.exists() else "runs it"
    if state.startswith("is running"):
        return f"it {state}"
    place = shlex.join(["--run.output_dir", str(folder.absolute().parents[2]), "--run.id", folder.name])
    return f"it {state}: python -m kd_lightning fit --config {config} {place} --ckpt_path last {goes}"


def _evaluates_last(config: Path) -> bool:
    try:
        content = load_yaml(config.read_text(encoding="utf-8"))
        return content["protocol"]["select"] == "last"
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return False
