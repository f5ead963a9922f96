"""Checkpoints that are written atomically and that execute no code when they are read."""

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
    """Writes a run's checkpoints with `atomic_write`, and reads them as weights and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; if it cannot be written, an older checkpoint of the same name remains.

        Raises:
            RunError: if it cannot be written (for example because the disk is full); the message names file and reason.
        """
        path = Path(path)
        try:
            with atomic_write(path) as partial:
                torch.save({**checkpoint, "schema": SCHEMA}, partial)
        except (OSError, RuntimeError) as error:
            reason = one_line(error.__context__ or error)
            if path.exists():
                remaining = f"the previous checkpoint is intact, and --ckpt_path {path} resumes from it"
            else:
                remaining = "this run has no earlier checkpoint of this name"
            raise RunError(f"{path} cannot be written ({reason}); {remaining}") from error

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: Any = None) -> dict[str, Any]:
        """Load a checkpoint as Lightning does, but always with `weights_only`, so that no pickle executes code.

        Raises:
            ConfigError: for a checkpoint of another version.
        """
        checkpoint = super().load_checkpoint(path, map_location=map_location, weights_only=True)
        check_schema(checkpoint, Path(path), "ckpt_path")
        return checkpoint


def check_checkpoint(given: str) -> str:
    """Check, before anything is built, that the checkpoint of `ckpt_path` can be read; return its absolute path.

    Raises:
        ConfigError: for a file that is missing, damaged or of another version, that contains only a student, or that
            would execute code.
    """
    path = resolve(given, "ckpt_path")
    checkpoints.read(path, "ckpt_path")
    if path.suffix == ".safetensors":
        raise ConfigError(
            f"ckpt_path: {path} contains only a student; give a run's .ckpt, or give this file as "
            "model.student.checkpoint"
        )
    check_version(path, "ckpt_path")
    return str(path)


def check_version(path: Path, field: str) -> None:
    """Check the schema of a checkpoint that Lightning wrote; files that contain only weights have no schema.

    Raises:
        ConfigError: for a run's checkpoint of another version; the message names `field` and the file.
    """
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if "pytorch-lightning_version" in content:
        check_schema(content, path, field)


def steps_done(path: Path) -> int:
    """Return the number of optimizer steps at which a checkpoint was saved."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
