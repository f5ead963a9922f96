"""A finished run's method and data again, from its checkpoint and the config.yaml beside it."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.utilities import rank_zero_warn

from kd_lightning.config.messages import config_error, explain
from kd_lightning.config.parser import Parser
from kd_lightning.data import ImageData
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError, nearest, one_line
from kd_lightning.evaluation import FeatureCache, NetworkView
from kd_lightning.io.paths import resolve
from kd_lightning.io.safe_yaml import load_yaml
from kd_lightning.io.schema import check_schema
from kd_lightning.models import Network, checkpoints
from kd_lightning.runs.checkpoint_io import check_version
from kd_lightning.runs.results import FILE as RESULTS

CONFIG = "config.yaml"
_ONLY_TRAINING = ("augmentations", "mixing", "neighbors", "views", "repeats")
"""Arguments of data modules that no image which is looked at depends on, and which may name files that are gone."""


@dataclass(frozen=True)
class LoadedRun:
    """A run's networks and images, to be looked at."""

    checkpoint: Path
    config: dict[str, Any]
    """config.yaml as nested tables."""
    method: StudentModule
    """In eval mode, with the checkpoint's weights."""
    data: ImageData

    @property
    def student(self) -> Network:
        return self.method.student

    @property
    def teacher(self) -> Network:
        """The method's teacher.

        Raises:
            ConfigError: for a method that has none.
        """
        teacher = getattr(self.method, "teacher", None)
        if teacher is None:
            raise ConfigError(f"{self.checkpoint}: {type(self.method).__name__} has no teacher to compare with")
        return teacher

    @cached_property
    def view(self) -> NetworkView:
        """The student's view of the test images, which contains the teacher's; outputs are computed once."""
        method, cache = self.method, FeatureCache(next(self.student.parameters()).device)
        teacher = getattr(method, "teacher", None)
        teacher_view = teacher and NetworkView(
            teacher, cache, self.data, "test", knows_classes=method.has_task_classifier
        )
        return NetworkView(
            self.student,
            cache,
            self.data,
            "test",
            knows_classes=method.trains_classifier,
            is_student=True,
            teacher=teacher_view,
        )


def load_run(path: str | os.PathLike[str], *, device: str = "cpu") -> LoadedRun:
    """The method and the data of a run, with the weights of one of its checkpoints.

    The networks are built as config.yaml says, so a teacher's weights must be where it names them (from the working
    directory, where that is a relative path); the checkpoint holds the student and what was trained beside it. No
    pickle is executed. Warns of a teacher whose weights are not those that the run had.

    Args:
        path: a run's folder (then the selected checkpoint, else best.ckpt, else last.ckpt) or a file in it.
        device: where the networks go (`cpu`, `cuda`).

    Raises:
        ConfigError: where checkpoint or config is missing or unreadable, or they do not fit each other.
    """
    found = resolve(path, "run")
    checkpoint = find_checkpoint(found) if found.is_dir() else found
    if checkpoint.suffix == ".safetensors":
        raise ConfigError(f"run: {checkpoint} holds a network alone; give the run's folder or its .ckpt")
    beside = checkpoint.with_name(CONFIG)
    config = read_config(beside)
    state, facts = checkpoints.read(checkpoint, "run")
    check_version(checkpoint, "run")
    with torch.random.fork_rng(devices=[]):  # building a student draws its first weights
        method, data = build(config, beside)
    fits = {"state_dict": state, "network": facts}
    try:
        method.on_load_checkpoint(fits)
    except ConfigError as error:
        raise ConfigError(str(error).replace("ckpt_path", str(checkpoint), 1)) from error
    method.load_state_dict(fits["state_dict"])
    _check_teacher(method, checkpoint)
    data.prepare_data()
    return LoadedRun(checkpoint, config, method.to(device).eval(), data)


def newest_run(folder: str | os.PathLike[str], name: str) -> Path:
    """The folder of the latest finished run of that name (`kd-s0`) below a folder of runs.

    Raises:
        ConfigError: where there is none, with the nearest names.
    """
    finished = {path.parent for path in resolve(folder, "runs").glob(f"**/{RESULTS}")}
    found = [path for path in finished if path.parent.name == name]
    if not found:
        names = sorted({path.parent.name for path in finished})
        raise ConfigError(f"runs: {folder} has no finished run {name!r}{nearest(name, names)}")
    return max(found, key=lambda path: (path / RESULTS).stat().st_mtime)


def _result(folder: Path, part: str, key: str) -> Any:
    """A value of results.json; None where there is none: the run is not finished, or of another code."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return json.loads((folder / RESULTS).read_text())[part][key]
    return None


def _check_teacher(method: StudentModule, checkpoint: Path) -> None:
    """Warns of a teacher whose weights were replaced since the run."""
    then, teacher = _result(checkpoint.parent, "run", "teacher_fingerprint"), getattr(method, "teacher", None)
    if teacher is not None and isinstance(then, str) and teacher.fingerprint()[: len(then)] != then:
        rank_zero_warn(f"teacher: the weights of {teacher.name} are others now than those that taught {checkpoint}")


def find_checkpoint(folder: Path, field: str = "run") -> Path:
    """The checkpoint of a run's folder that was evaluated, else best.ckpt, else last.ckpt.

    Raises:
        ConfigError: naming `field` where there is none.
    """
    evaluated = _result(folder, "protocol", "checkpoint")
    names = [
        name for name in (evaluated, "best.ckpt", "last.ckpt") if isinstance(name, str) and Path(name).name == name
    ]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise ConfigError(f"{field}: {folder} holds no checkpoint ({' or '.join(dict.fromkeys(names))})")
    return found


def read_config(path: Path, field: str = "run") -> dict[str, Any]:
    """A run's config.yaml, as nested tables.

    Raises:
        ConfigError: naming `field` where it is missing, unreadable or another file's.
    """
    if not path.is_file():
        raise ConfigError(
            f"{field}: there is no {CONFIG} beside {path.parent.name}'s checkpoint ({path}), and it says which method, "
            "networks and data the weights are of; put the run's own there"
        )
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = one_line(error, 160)
        raise ConfigError(f"{field}: {path} cannot be read: {reason}") from error
    parts = [content.get(part) if isinstance(content, dict) else None for part in ("model", "data")]
    if not all(isinstance(part, dict) and "class_path" in part for part in parts):
        raise ConfigError(f"{field}: {path} names no model and data; it is not what fit writes into a run's folder")
    return content


def build(config: dict[str, Any], path: Path) -> tuple[StudentModule, ImageData]:
    """The method, with a fresh student, and the data that a run's config names; `path` is where it was read.

    Raises:
        ConfigError: for a config of another version, and for what cannot be built.
    """
    check_schema(config, path, "run")
    parser = Parser(exit_on_error=False)
    parser.add_lightning_class_args(StudentModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(ImageData, "data", subclass_mode=True)
    parser.link_arguments("data.num_classes", "model.init_args.student.num_classes", apply_on="instantiate")
    arguments = config["data"].get("init_args") or {}
    seed = config.get("seed_everything")
    arguments = {key: value for key, value in arguments.items() if key not in _ONLY_TRAINING}
    arguments |= {"seed": seed} if isinstance(seed, int) and not isinstance(seed, bool) else {}
    data = {**config["data"], "init_args": arguments}
    try:
        parsed = parser.parse_object({"model": config["model"], "data": data})
        built = parser.instantiate_classes(parsed)
    except Exception as error:  # jsonargparse wraps what a constructor raises
        known = config_error(error)
        line = str(known) if known else explain(str(error), set())
        raise ConfigError(f"{path}: {' '.join(line.split())[:400]}") from error
    return built.model, built.data
