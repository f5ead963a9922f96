"""Decoded images on disk, mapped into memory, so that a second start costs no decoding."""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

VERSION = 1
"""Raised when decoding changes: arrays of before are then not found."""


def home() -> Path:
    """$XDG_CACHE_HOME/kd_lightning, by default ~/.cache/kd_lightning."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kd_lightning"


def decoded(
    name: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, str]:
    """A uint8 array by name, which must say all that it depends on, its bad rows, and where it came from in words.

    It is made under a temporary name and moved into place when whole, so that two processes that make one at once
    both end with a whole one. Pages are read when used, shared by all processes, and never written to disk again.

    Args:
        name: of the file.
        shape: of the array.
        fill: puts the content into it and says, for each row, whether it is bad; that is kept beside the array.
    """
    path = home() / "decoded" / f"{name}.npy"
    reason = ""
    try:
        if path.exists():
            array = np.load(path, mmap_mode="c", allow_pickle=False)
            if array.shape == shape and array.dtype == np.uint8:
                beside = path.with_suffix(".bad.npy")
                bad = np.load(beside, allow_pickle=False) if beside.exists() else np.zeros(shape[0], bool)
                return array, bad, "from the disk cache"
            reason = f"it holds {array.dtype} {array.shape}, not {shape}"
    except (OSError, ValueError, EOFError) as error:
        reason = str(error)
    if reason:
        rank_zero_warn(f"{path} is not whole ({reason}); it is made anew")
    rank_zero_info(f"decoding {shape[0]:,} images, once; kept in {path.parent}")
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
            if hasattr(os, "posix_fallocate"):  # a full disk shows here, not as a fault in the mapping
                with partial.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
        except OSError as error:
            held = f"{np.prod(shape) / 1e6:,.0f} MB of decoded images"
            rank_zero_warn(f"{path.parent} cannot keep {held} ({error}): they are decoded at every start")
            array = np.empty(shape, np.uint8)
            return array, fill(array), "decoded"
        bad = fill(array)
        array.flush()
        del array
        if bad.any():
            with partial.with_suffix(".bad").open("wb") as file:
                np.save(file, bad)
            os.replace(partial.with_suffix(".bad"), path.with_suffix(".bad.npy"))
        os.replace(partial, path)
    finally:
        for file in (partial, partial.with_suffix(".bad")):
            with contextlib.suppress(OSError):
                file.unlink()
    return np.load(path, mmap_mode="c", allow_pickle=False), bad, "decoded now, and kept in the disk cache"
