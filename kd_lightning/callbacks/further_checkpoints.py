"""Check the paths of the checkpoint callbacks in a config, before the run begins."""

import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

from kd_lightning.callbacks.checkpoint_state import BEST, LAST
from kd_lightning.errors import ConfigError, one_line
from kd_lightning.io.paths import check_writable


def check_further_checkpoints(callbacks: Iterable[Any], folder: Path) -> None:
    """Raise an error if a checkpoint callback of a config cannot write its files.

    Args:
        callbacks: callbacks of the config.
        folder: folder of the run, in which `last.ckpt` and `best.ckpt` belong to the run itself.

    Raises:
        ConfigError: if `dirpath` cannot be created or written to, if `filename` leads out of it, or if the file is a
            checkpoint of the run itself. The message names the callback and its argument.
    """
    for callback in callbacks:
        if not isinstance(callback, ModelCheckpoint | OnExceptionCheckpoint):
            continue
        name, place = f"trainer.callbacks: {type(callback).__name__}", callback.dirpath
        if place is not None:
            if "\0" in str(place) or not str(place).strip():
                raise ConfigError(f"{name}.dirpath: {str(place)!r} is not a folder; give a folder, or omit it")
            check_writable(Path(place), f"{name}.dirpath")
        if callback.filename is not None:
            _check_filename(callback.filename, f"{name}.filename")
            if isinstance(callback, ModelCheckpoint):
                _check_braces(callback, f"{name}.filename")
            own = [(folder / name).absolute() for name in (LAST, BEST)]
            if place is not None and Path(place, f"{callback.filename}.ckpt").absolute() in own:
                raise ConfigError(
                    f"{name}.filename: {callback.filename}.ckpt in {place} is a checkpoint of the run itself; choose "
                    "another name"
                )


def filename_fields(callback: Any) -> list[str]:
    """Return the names in braces in the file name of a `ModelCheckpoint`; none for all other callbacks."""
    if not isinstance(callback, ModelCheckpoint) or callback.filename is None:
        return []
    return [name for _, name, _, _ in string.Formatter().parse(callback.filename) if name is not None]


def _check_braces(callback: ModelCheckpoint, field: str) -> None:
    """Raise an error for a file name in which a brace is missing, or with a format that no number can have."""
    try:
        values = {name: torch.tensor(0.0) for name in filename_fields(callback)}
        values |= {name: torch.tensor(0) for name in values.keys() & {"epoch", "step"}}
        callback._format_checkpoint_name(callback.filename, values)
    except Exception as error:
        raise ConfigError(
            f"{field}: {callback.filename[:60]!r} cannot be formatted ({one_line(error, 100)}); write each value as "
            "{name} or {name:format}, for example {epoch} or {val/acc:.3f}"
        ) from error


def _check_filename(name: str, field: str) -> None:
    """Raise an error for a name that is not a path inside a folder. A slash is allowed, as in `{val/acc:.2f}`."""
    path = Path(name) if "\0" not in name else None
    too_long = any(len(part.encode(errors="replace")) > 200 for part in name.split("/"))
    if path is None or path.is_absolute() or ".." in path.parts or too_long or not (name and name.isprintable()):
        raise ConfigError(
            f"{field}: {name[:60]!r} is not the name of a file in the folder of the checkpoints; use printable "
            "characters without .. or a / at the beginning"
        )
