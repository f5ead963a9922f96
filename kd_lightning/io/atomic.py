"""Atomic writes: a file is complete or absent, even if the process is killed or the machine stops."""

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
    """Yield a temporary path in the folder of `path`. On exit, the temporary file is atomically renamed to `path`.

    The content is on the disk before the rename, and the rename is on the disk before this function returns. A power
    cut therefore leaves either the old file or the new file. An error (for example a full disk) leaves the old file and
    no temporary file. A killed process leaves a hidden file `.<name>.<process>-<random>.partial`.

    Raises:
        OSError: if the file cannot be written.
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
    """Wait until the content of a file, or the list of names in a folder, is on the disk."""
    with contextlib.suppress(PermissionError):  # a folder may be writable but not readable
        number = os.open(path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
                os.fsync(number)
        finally:
            os.close(number)


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]", facts: Mapping[str, Any]) -> None:
    """Write tensors to a safetensors file, and facts to the metadata of the file. Each fact is written as JSON."""
    from safetensors.torch import save_file  # imports torch, which takes seconds

    contiguous: dict[str, Tensor] = {}
    memory: set[int] = set()
    for key, value in tensors.items():
        tensor = value.detach().cpu().contiguous()
        if tensor.numel() and tensor.untyped_storage().data_ptr() in memory:
            tensor = tensor.clone()  # safetensors does not accept tensors that share memory, as in CoaT
        memory.add(tensor.untyped_storage().data_ptr())
        contiguous[key] = tensor
    with atomic_write(path) as partial:
        save_file(contiguous, partial, metadata={"format": "pt", **{k: json.dumps(v) for k, v in facts.items()}})
        partial.chmod(0o644)  # safetensors creates files that only their owner can read
