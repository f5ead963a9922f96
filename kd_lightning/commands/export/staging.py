"""A file or a folder that gets its name only once it has been looked at."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kd_lightning.io.atomic import ENDING, to_disk


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Gives a path of the target's own name in a hidden folder beside it; what stands there afterwards is moved.

    `wholefile.whole` for what is read again, by readers that go by a file's ending, before it may have its name; a
    folder takes the place of the one that was there. An error on the way leaves what was there before.

    Raises:
        OSError: where there is no place for it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.getpid()}-{secrets.token_hex(2)}"
    stage = target.with_name(f".{target.name}.{mark}{ENDING}")
    stage.mkdir()
    try:
        made = stage / target.name
        yield made
        for path in (*made.rglob("*"), made) if made.is_dir() else (made,):
            to_disk(path)
        before = stage / "before"
        if target.is_dir():  # a folder cannot be moved onto one that holds files
            os.replace(target, before)
        try:
            os.replace(made, target)
        except OSError:
            if before.exists():
                os.replace(before, target)
            raise
        to_disk(target.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
