"""A file that is whole or not there at all, whatever happens to the process that writes it or to its machine."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ENDING = ".partial"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to; what stands there afterwards is moved to `path` in one step.

    It reaches the disk before it is moved, and the move before this returns, so that a power cut leaves the old file
    or the new one. An error on the way (a full disk, for one) leaves the old one and nothing beside it; a process that
    is killed leaves a hidden file `.<name>.<process>-<random>.partial`.

    Raises:
        OSError: where there is no place for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(2)}{ENDING}")
    try:
        yield partial
        to_disk(partial)
        os.replace(partial, path)
        to_disk(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def to_disk(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    with contextlib.suppress(PermissionError):  # a folder that can be written to, not read
        number = os.open(path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():  # not on all file systems
                os.fsync(number)
        finally:
            os.close(number)


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", facts: Mapping[str, Any]) -> None:
    """Writes tensors with facts beside them (each as JSON)."""
    from safetensors.torch import save_file  # imports torch, which takes seconds

    held = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with atomic_write(path) as partial:
        save_file(held, partial, metadata={"format": "pt", **{k: json.dumps(v) for k, v in facts.items()}})
        partial.chmod(0o644)  # safetensors makes files that their owner alone can read
