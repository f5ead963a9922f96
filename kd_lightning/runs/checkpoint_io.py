"""Checkpoints that are whole or not there, and that run no code when they are read."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from kd_lightning.errors import ConfigError, RunError, one_line
from kd_lightning.io.atomic import atomic_write
from kd_lightning.io.paths import resolve
from kd_lightning.io.schema import SCHEMA, check_schema
from kd_lightning.models import checkpoints


class AtomicCheckpointIO(TorchCheckpointIO):
    """How Lightning writes and reads a run's checkpoints: by `atomic_write`, and as weights and plain values alone."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint in the place of an older one, which stays where the new one cannot be written.

        Raises:
            RunError: naming the file and what hinders (a full disk, for one).
        """
        path = Path(path)
        try:
            with atomic_write(path) as partial:
                torch.save({**checkpoint, "schema": SCHEMA}, partial)
        except (OSError, RuntimeError) as error:
            reason = one_line(error.__context__ or error)
            kept = f"the one of before is whole, and --ckpt_path {path} goes on from it" if path.exists() else ""
            nothing = "there is no other of this run under that name"
            raise RunError(f"{path} cannot be written ({reason}); {kept or nothing}") from error

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: Any = None) -> dict[str, Any]:
        """Load as Lightning does, but never by a pickle that could run code, whatever is asked for.

        Raises:
            ConfigError: for a checkpoint of another version.
        """
        checkpoint = super().load_checkpoint(path, map_location=map_location, weights_only=True)
        check_schema(checkpoint, Path(path), "ckpt_path")
        return checkpoint


def check_checkpoint(given: str) -> str:
    """Check, before anything is built, that the checkpoint of `ckpt_path` can be read; return its full path.

    Raises:
        ConfigError: for a file that is missing, damaged, a student alone, of another version, or that would run code.
    """
    path = resolve(given, "ckpt_path")
    checkpoints.read(path, "ckpt_path")
    if path.suffix == ".safetensors":
        raise ConfigError(
            f"ckpt_path: {path} holds a student alone; give a run's .ckpt, or this file as model.student.checkpoint"
        )
    check_version(path, "ckpt_path")
    return str(path)


def check_version(path: Path, field: str) -> None:
    """Check the schema of a checkpoint that Lightning wrote; files of weights alone have none.

    Raises:
        ConfigError: naming `field` and the file, for a run's checkpoint of another version.
    """
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if "pytorch-lightning_version" in content:
        check_schema(content, path, field)


def steps_done(path: Path) -> int:
    """Steps of the optimizer behind a checkpoint."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
