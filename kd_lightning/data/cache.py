"""Disk cache of decoded images. Later starts map the cache into memory and need not decode the images again."""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from kd_lightning.words import counted

VERSION = 2
"""Incremented when decoding changes, so that arrays in the old format are not used."""


def home() -> Path:
    """Return $XDG_CACHE_HOME/kd_lightning, by default ~/.cache/kd_lightning."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kd_lightning"


def decoded(
    name: str, shape: tuple[int, ...], fill: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, str]:
    """Return a cached uint8 array, its bad rows, and a text about the source of the array.

    The array is created under a temporary name and renamed when it is complete. If two processes create it at the same
    time, both therefore get a complete array. Pages are read on access, shared by all processes, and never written
    back.

    Args:
        name: Name of the file. It must identify everything that the array depends on.
        shape: Shape of the array.
        fill: Function that writes the content into the array, and returns whether each row is bad. These values are
            also stored.
    """
    path = home() / "decoded" / f"{name}.npy"
    reason = ""
    try:
        if path.is_file():
            array = np.load(path, mmap_mode="c", allow_pickle=False)
            if array.shape == shape and array.dtype == np.uint8:
                bad_rows_path = path.with_suffix(".bad.npy")
                bad = (
                    np.load(bad_rows_path, allow_pickle=False) if bad_rows_path.is_file() else np.zeros(shape[0], bool)
                )
                if bad.shape == shape[:1] and bad.dtype == bool:
                    return array, bad, "from the disk cache"
                array = bad
            reason = f"it contains {array.dtype} {array.shape}, not {shape}"
    except (OSError, ValueError, EOFError) as error:
        reason = str(error)
    if reason:
        rank_zero_warn(f"{path} is incomplete ({reason}); it is created again")
        rank_zero_info(f"decoding {counted(shape[0], 'image')} once; cached in {path.parent}")
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
            if hasattr(os, "posix_fallocate"):  # raises an error here if the disk is full, instead of SIGBUS later
                with partial.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
        except OSError as error:
            description = f"{np.prod(shape) / 1e6:,.0f} MB of decoded images"
            rank_zero_warn(f"{path.parent} cannot store {description} ({error}), so they are decoded at every start")
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
    return np.load(path, mmap_mode="c", allow_pickle=False), bad, "decoded now, and stored in the disk cache"
