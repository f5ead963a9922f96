"""Write checkpoints atomically, and read checkpoints without executing code from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from kd_lightning.errors import ConfigError, RunError, one_line
from kd_lightning.io.atomic import atomic_write
from kd_lightning.io.paths import resolve
from kd_lightning.io.schema import SCHEMA, check_schema
from kd_lightning.models import checkpoints
from kd_lightning.models.composites import is_composite
from kd_lightning.runs.checkpoint_content import check_content
from kd_lightning.runs.selected import is_run


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a run's checkpoints with `atomic_write`, and reads only tensors and plain values from checkpoints."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint. If this fails, an older checkpoint with the same name stays unchanged.

        Raises:
            RunError: if the checkpoint cannot be written, for example because the disk is full. The message
                contains the path and the reason.
        """
        path = Path(path)
        try:
            with atomic_write(path) as partial:
                torch.save({**checkpoint, "schema": SCHEMA}, partial)
        except (OSError, RuntimeError) as error:
            reason = one_line(error.__context__ or error)
            if path.exists():
                remaining = f"the previous checkpoint is intact; to resume from it, give --ckpt_path {path}"
            else:
                remaining = "this run has no earlier checkpoint with this name"
            raise RunError(f"{path} cannot be written ({reason}); {remaining}") from error

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: Any = None) -> dict[str, Any]:
        """Load a checkpoint as Lightning does, but always with `weights_only=True`.

        The content of the file can therefore not execute code.

        Raises:
            ConfigError: if the checkpoint has another schema (version of the file format).
        """
        checkpoint = super().load_checkpoint(path, map_location=map_location, weights_only=True)
        check_schema(checkpoint, Path(path), "ckpt_path")
        if "optimizer_states" in checkpoint:  # the optimizer uses these tensors as they are, and changes them in place
            checkpoint["optimizer_states"] = _separate(checkpoint["optimizer_states"])
        return checkpoint


def _separate(value: Any) -> Any:
    """Return a copy whose tensors share no memory with each other, nor elements of a tensor among themselves."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _separate(each) for key, each in value.items()}
    return type(value)(map(_separate, value)) if type(value) in (list, tuple) else value


def check_checkpoint(given: str, *, fits: bool = False, student: bool = False) -> str:
    """Check that the checkpoint in `ckpt_path` can be read, and return its path.

    The check runs before any object of the run is built. In the path, ~ and environment variables are expanded.

    Args:
        given: path of the checkpoint.
        fits: whether `fit` resumes from the checkpoint.
        student: whether the file may contain only a student (student.safetensors).

    Raises:
        ConfigError: if the file is missing or damaged, has another schema (version of the file format), contains only
            weights or an incomplete state, or would execute code.
    """
    path = resolve(given, "ckpt_path")
    if fits and (path.is_dir() or path.name == "config.yaml"):
        raise ConfigError(_of_folder(path))
    if path.suffix == ".safetensors":
        facts = checkpoints.read(path, "ckpt_path")[1]
        if student:
            return str(path)
        raise ConfigError(_of_student(path, facts, fits=fits))
    content = read_once(path)
    checkpoints.find(content, path, "ckpt_path")
    check_version(content, path, "ckpt_path")
    check_content(content, path, fits=fits)
    if not fits:
        forget()
    return str(path)


def _of_student(path: Path, facts: Mapping[str, Any], *, fits: bool) -> str:
    """Return the error for a file with only a student, or with a network that consists of the student and others."""
    if not is_composite(name := facts.get("name")):
        return (
            f"ckpt_path: {path} contains only a student; "
            "give a run's .ckpt, or give this file as model.student.checkpoint"
        )
    if not fits and is_run(path.parent):
        advice = f"the folder of its run, {path.parent}"
    else:
        advice = (
            f"a run's .ckpt, or give this file as model.student.checkpoint, with {name} as model.student.name and "
            f"{facts.get('model_kwargs')} as model.student.model_kwargs"
        )
    what = f"a network, a {name}, which consists of a student and further modules"
    return f"ckpt_path: {path} contains only {what}; give {advice}"


def _of_folder(path: Path) -> str:
    """Return the error for the path of a run's folder, or of its config.yaml, from which `fit` cannot begin."""
    folder = path if path.is_dir() else path.parent
    last = folder / "last.ckpt"
    if not last.is_file():
        return f"ckpt_path: {path} is not a checkpoint, and {folder} has no last.ckpt; fit takes the last.ckpt of a run"
    return (
        f"ckpt_path: {path} is not a checkpoint; to resume the run, give --run.id {folder.absolute().name} --ckpt_path "
        f"last; to begin a new run with its state, give --ckpt_path {last}"
    )


def check_version(content: Any, path: Path, field: str) -> None:
    """Check the schema (version of the file format) of a checkpoint that Lightning wrote.

    Other files contain only weights and have no schema. They are not checked.

    Raises:
        ConfigError: if the checkpoint has another schema. The message begins with `field` and the path.
    """
    if isinstance(content, Mapping) and "pytorch-lightning_version" in content:
        check_schema(content, path, field)


_READ: dict[tuple[str, int, int], Any] = {}
"""Content of the checkpoint from which a run begins, by path, size and time of change of the file."""


def read_once(path: Path) -> Any:
    """Return the content of a checkpoint. Until `forget` is called, the file is read only once.

    The tensors remain in the file until they are used. The content must not be changed.

    Raises:
        ConfigError: if the file cannot be read, is truncated, or would run code.
    """
    try:
        facts = path.stat()
    except OSError as error:
        raise ConfigError(f"ckpt_path: {path} cannot be read: {one_line(error)}") from error
    key = (str(path.absolute()), facts.st_size, facts.st_mtime_ns)
    if key not in _READ:
        forget()
        _READ[key] = checkpoints.load(path, "ckpt_path", mmap=True)
    return _READ[key]


def forget() -> None:
    """Release the checkpoint that `read_once` has read."""
    _READ.clear()


def steps_done(path: Path) -> int:
    """Return the number of optimizer steps after which a checkpoint was saved."""
    return read_once(path)["global_step"]
