"""Load the method and the data of a run from its checkpoint and its config.yaml."""

import os
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
from kd_lightning.evaluation.network_view import network_view
from kd_lightning.io.paths import read_text, resolve
from kd_lightning.io.safe_yaml import load_yaml
from kd_lightning.io.schema import check_schema
from kd_lightning.models import Network, checkpoints
from kd_lightning.runs.checkpoint_io import check_version
from kd_lightning.runs.results import FILE as RESULTS
from kd_lightning.runs.selected import CONFIG, result, selected

_ONLY_TRAINING = ("augmentations", "mixing", "neighbors", "views", "view_augmentations", "repeats")
"""Arguments of data modules that affect only training. `build` omits them, because they may name missing files."""


@dataclass(frozen=True)
class LoadedRun:
    """The networks and the data of a run, for evaluation and analysis."""

    checkpoint: Path
    config: dict[str, Any]
    """Content of config.yaml as nested dicts."""
    method: StudentModule
    """The method in eval mode, with the weights of the checkpoint."""
    data: ImageData

    @property
    def student(self) -> Network:
        return self.method.deployed

    @property
    def teacher(self) -> Network:
        """The method's teacher.

        Raises:
            ConfigError: if the method has no teacher.
        """
        teacher = getattr(self.method, "teacher", None)
        if teacher is None:
            raise ConfigError(
                f"{self.checkpoint}: {type(self.method).__name__} has no teacher to compare with; choose a run with a "
                "teacher"
            )
        return teacher

    @cached_property
    def view(self) -> NetworkView:
        """`NetworkView` of the student on the test images.

        The field `teacher` of this view contains the view of the teacher, or None if the method has no teacher. The
        outputs of each network are computed only once.
        """
        cache = FeatureCache(next(self.student.parameters()).device)
        return network_view(self.method, self.data, "test", cache)


def load_run(path: str | os.PathLike[str], *, device: str = "cpu") -> LoadedRun:
    """Return the method and the data of a run. The method has the weights of one of the run's checkpoints.

    The networks are built from config.yaml. The checkpoint contains the student and the method's additional layers
    (heads), but not the teacher. The teacher's weights are therefore read from the path in config.yaml. A relative path
    is relative to the working directory. The checkpoint is read with `weights_only=True`, so its content cannot execute
    code. The function warns if the teacher's weights have changed since the run.

    Args:
        path: path of a run's folder, of its config.yaml, or of a checkpoint in the folder. For the folder and its
            config.yaml, the selected checkpoint is used (`kd_lightning.runs.selected`). If the run has not finished, a
            warning says which checkpoint is used.
        device: device of the networks (`cpu`, `cuda`).

    Raises:
        ConfigError: if the checkpoint or the config is missing or cannot be read, or if the two do not fit each other.
    """
    found = selected(path)
    checkpoint = found.file
    if found.instead:
        rank_zero_warn(found.line("run"))
    if checkpoint.suffix == ".safetensors":
        raise ConfigError(f"run: {checkpoint} contains only a network; give the run's folder or the run's .ckpt")
    config_path = checkpoint.with_name(CONFIG)
    config = read_config(config_path)
    saved = checkpoints.load(checkpoint, "run")
    state, facts = checkpoints.find(saved, checkpoint, "run")
    check_version(saved, checkpoint, "run")
    with torch.random.fork_rng(devices=[]):  # a new student draws random numbers; afterwards restore the generator
        method, data = build(with_weights(config, checkpoint), config_path)
    content = {"state_dict": state, "network": facts}
    try:
        method.on_load_checkpoint(content)
    except ConfigError as error:
        raise ConfigError(str(error).replace("ckpt_path", str(checkpoint), 1)) from error
    method.load_state_dict(content["state_dict"])
    _check_teacher(method, checkpoint)
    data.prepare_data()
    return LoadedRun(checkpoint, config, method.to(device).eval(), data)


def with_weights(config: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Return a run's config in which the student has the weights of a checkpoint instead of its starting weights.

    The file with the starting weights may be missing. If the student began with random weights, nothing is changed.
    """
    arguments = config["model"].get("init_args") or {}
    student = arguments.get("student")
    if not (isinstance(student, dict) and (student.get("pretrained") or student.get("checkpoint"))):
        return config
    student = {**student, "pretrained": False, "checkpoint": str(checkpoint.absolute())}
    return {**config, "model": {**config["model"], "init_args": {**arguments, "student": student}}}


def newest_run(folder: str | os.PathLike[str], name: str) -> Path:
    """Return the folder of the newest finished run with the given name, such as `kd-s0`.

    The function searches `folder` and its subfolders.

    Raises:
        ConfigError: if there is no such run. The message contains the nearest names.
    """
    finished = {path.parent for path in resolve(folder, "runs").glob(f"**/{RESULTS}")}
    named = [path for path in finished if path.parent.name == name]
    if not named:
        names = sorted({path.parent.name for path in finished})
        raise ConfigError(f"runs: {folder} contains no finished run {name!r}{nearest(name, names)}")
    return max(named, key=lambda path: (path / RESULTS).stat().st_mtime)


def _check_teacher(method: StudentModule, checkpoint: Path) -> None:
    """Warn if the teacher's weights have changed since the run."""
    recorded, teacher = result(checkpoint.parent, "run", "teacher_fingerprint"), getattr(method, "teacher", None)
    if teacher is not None and isinstance(recorded, str) and teacher.fingerprint()[: len(recorded)] != recorded:
        rank_zero_warn(
            f"teacher: the weights of {teacher.name} are not the weights with which {checkpoint} was trained; restore "
            f"the original weights that {CONFIG} names"
        )


def read_config(path: Path, field: str = "run") -> dict[str, Any]:
    """Return a run's config.yaml as nested dicts.

    Raises:
        ConfigError: if the file is missing, cannot be read, or is not the config of a run. The message begins with
            `field`.
    """
    if not path.is_file():
        raise ConfigError(
            f"{field}: {path} is missing, so the method, the networks and the data of the checkpoint are unknown; "
            f"copy the run's {CONFIG} to this path"
        )
    try:
        content = load_yaml(read_text(path))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = one_line(error, 160)
        raise ConfigError(f"{field}: {path} cannot be read: {reason}; restore the config of the run") from error
    parts = [content.get(part) if isinstance(content, dict) else None for part in ("model", "data")]
    if not all(isinstance(part, dict) and "class_path" in part for part in parts):
        raise ConfigError(
            f"{field}: {path} is not the config of a run, because it contains no class_path of a model or of data; "
            "give the folder or the checkpoint of a run"
        )
    return content


def build(config: dict[str, Any], path: Path) -> tuple[StudentModule, ImageData]:
    """Build the method and the data from a run's config.

    The student has initial weights. The weights of the checkpoint are not loaded.

    Args:
        config: content of config.yaml.
        path: path of config.yaml, for error messages.

    Raises:
        ConfigError: if the config has another schema (version of the file format), or if an object cannot be built.
    """
    check_schema(config, path, "run")
    parser = Parser(exit_on_error=False)
    parser.add_lightning_class_args(StudentModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(ImageData, "data", subclass_mode=True)
    parser.link_arguments("data.num_classes", "model.init_args.student.num_classes", apply_on="instantiate")
    built = _instantiated(parser, {"model": config["model"], "data": _data(config)}, path)
    return built.model, built.data


def build_data(config: dict[str, Any], path: Path) -> ImageData:
    """Build only the data from a run's config. The arguments and the errors are those of `build`."""
    check_schema(config, path, "run")
    parser = Parser(exit_on_error=False)
    parser.add_lightning_class_args(ImageData, "data", subclass_mode=True)
    return _instantiated(parser, {"data": _data(config)}, path).data


def _data(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the data, without what affects only training, and with the seed of the run."""
    arguments = config["data"].get("init_args") or {}
    seed = config.get("seed_everything")
    arguments = {key: value for key, value in arguments.items() if key not in _ONLY_TRAINING}
    arguments |= {"seed": seed} if isinstance(seed, int) and not isinstance(seed, bool) else {}
    return {**config["data"], "init_args": arguments}


def _instantiated(parser: Parser, content: dict[str, Any], path: Path) -> Any:
    try:
        return parser.instantiate_classes(parser.parse_object(content))
    except Exception as error:  # jsonargparse wraps the exceptions of constructors
        known = config_error(error)
        line = str(known) if known else explain(str(error), set())
        raise ConfigError(f"{path}: {' '.join(line.split())[:400]}") from error
