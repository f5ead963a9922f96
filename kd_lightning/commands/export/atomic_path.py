"""Write a file or folder that gets its name only after it has been checked."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kd_lightning.io.atomic import ENDING, to_disk


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path with the target's name in a hidden temporary folder; on exit it is moved to the target.

    Like `atomic_write`, for files that must be read back before they are moved, by readers that depend on the file's
    suffix, and for folders. An existing target is replaced; on an error it remains unchanged.

    Raises:
        OSError: if the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = f"{os.getpid()}-{secrets.token_hex(2)}"
    temporary = target.with_name(f".{target.name}.{suffix}{ENDING}")
    temporary.mkdir()
    try:
        partial = temporary / target.name
        yield partial
        for path in (*partial.rglob("*"), partial) if partial.is_dir() else (partial,):
            to_disk(path)
        previous = temporary / "before"
        if target.is_dir():  # a folder cannot be moved onto a non-empty one
            os.replace(target, previous)
        try:
            os.replace(partial, target)
        except OSError:
            if previous.exists():
                os.replace(previous, target)
            raise
        to_disk(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
