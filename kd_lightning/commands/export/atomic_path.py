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
    """Yield a path in a hidden temporary folder; on exit, the file or folder at this path is moved to the target.

    The path has the same name as the target. In contrast to `atomic_write`, this function also supports folders, and
    files that are read back before they are moved by a library that depends on their suffix. An existing target is
    replaced. If an error is raised, an existing target remains unchanged.

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
