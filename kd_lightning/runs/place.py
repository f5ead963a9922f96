"""Checks of the folder of a run before the run begins: its path, its files and the free space."""

import os
import resource
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import check_local, expand

FILES = ("config.yaml", "state.json", "metrics.csv", "results.json", "last.ckpt", "best.ckpt", "student.safetensors")
_REMEDY = "choose another run.output_dir, or correct this path"
_SPARE = 2**20
"""Bytes for the small files of a run: config, state, metrics and results."""


def expand_folder(folder: str, field: str) -> Path:
    """Return a path with ~ and environment variables expanded.

    Raises:
        ConfigError: for an empty path, for an address such as `s3://bucket/x`, for a NUL character, for `~name` if
            there is no user of this name, and for an environment variable that is not set.
    """
    if not folder or "\0" in folder:
        raise ConfigError(f"{field}: {folder!r} is not a folder; give a folder, or omit it for runs/")
    check_local(folder, field)
    try:
        Path(folder).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{field}: {folder} names a user that does not exist on this machine; {_REMEDY}") from error
    if "$" in str(expand(folder)):
        raise ConfigError(f"{field}: {folder} names an environment variable that is not set; {_REMEDY}")
    return expand(folder)


def check_place(folder: Path) -> None:
    """Raise an error if the run's folder cannot be created, or if a folder or a pipe has the name of a file of the run.

    Raises:
        ConfigError: in these cases. The message names the path that is not a folder or is not writable.
    """
    absolute = folder.absolute()
    for path in (absolute, *absolute.parents):
        try:
            if path.is_symlink() and not path.exists():
                raise ConfigError(
                    f"run.output_dir: {path} is a link to {os.readlink(path)}, which does not exist; {_REMEDY}"
                )
            if not path.exists():
                continue
            if not path.is_dir():
                raise ConfigError(f"run.output_dir: {path} is a file and not a folder; {_REMEDY}")
            if path != absolute and not os.access(path, os.W_OK | os.X_OK):
                raise ConfigError(f"run.output_dir: {path} cannot be written to; {_REMEDY}")
        except OSError as error:
            raise cannot_create(path, error) from error
        break
    for name in FILES:
        path = folder / name
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe, a socket or a device"
            raise ConfigError(
                f"run.id: {path} is {kind}, but the run writes a file of this name; remove it, or give another run.id"
            )


def cannot_create(folder: Path, error: OSError) -> ConfigError:
    """Return the error of one line for a run's folder that cannot be created."""
    shown = str(error.filename or folder)
    shown = shown if len(shown) <= 160 else f"{shown[:157]}..."
    return ConfigError(f"run.output_dir: {shown} cannot be created or written ({error.strerror}); {_REMEDY}")


def check_room(folder: Path, method: nn.Module, *, resumes: bool) -> None:
    """Raise an error if the disk has too little free space for the run's checkpoints.

    A new run needs space for two checkpoints, because a checkpoint is replaced only after its successor is complete.

    Raises:
        ConfigError: if the disk has less free space, or if the limit of the size of files (`ulimit -f`) is smaller.
    """
    absolute = folder.absolute()
    existing = next(parent for parent in (absolute, *absolute.parents) if parent.is_dir())
    size = checkpoint_bytes(method)
    needed = size * (1 if resumes else 2) + _SPARE
    total, _, free = shutil.disk_usage(existing)
    if free < needed and total:  # /proc has no size
        raise ConfigError(
            f"run.output_dir: the disk of {existing} has {_mb(free)} of free space, but the checkpoints of this run "
            f"need about {_mb(needed)}; free some space, or choose another run.output_dir"
        )
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if largest != resource.RLIM_INFINITY and largest < size:
        raise ConfigError(
            f"run.output_dir: a file may have at most {_mb(largest)} here (ulimit -f), but a checkpoint of this run "
            f"has about {_mb(size)}; raise this limit"
        )


def checkpoint_bytes(method: nn.Module) -> int:
    """Return the approximate size of a checkpoint: all tensors of the method, and the optimizer's state."""
    own = method.state_dict(keep_vars=True).values()
    trained = sum(_bytes(value) for value in own if value.requires_grad)
    return sum(map(_bytes, own)) + round(trained * states_per_weight(method))


def states_per_weight(method: Any) -> float:
    """Return the number of values that the optimizer stores per trained weight, measured with a single weight."""
    weight = nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.ones(2, 2)
    try:
        optimizer = method.optimizer([weight])
        optimizer.step()
    except Exception:  # an optimizer with other needs; Adam stores two values
        return 2.0
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(value.numel() for value in states if value.numel() > 1) / weight.numel()


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _mb(size: int) -> str:
    return f"{size / 1e6:,.2f} MB"
