"""Image files of a folder: found, counted, and kept as one compact table of paths."""

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Self

import numpy as np
from torch import Tensor

SUFFIXES = frozenset(".jpg .jpeg .png .ppm .pgm .bmp .tif .tiff .webp .gif .jp2 .avif".split())


class Files(Sequence[Path]):
    """Paths below a root as one array of bytes: a million of them cost no Python objects that workers would copy.

    Args:
        root: a folder.
        relative: the paths below it.
    """

    def __init__(self, root: Path, relative: Sequence[str] | np.ndarray) -> None:
        self.root = root
        known = isinstance(relative, np.ndarray)
        self.relative = relative if known else np.array([os.fsencode(path) for path in relative], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self.relative)

    def __getitem__(self, row: int) -> Path:
        return self.root / os.fsdecode(bytes(self.relative[row]))

    @property
    def names(self) -> "Files":
        """What an image is called in a message: its path."""
        return self

    def subset(self, rows: Tensor) -> Self:
        return type(self)(self.root, self.relative[rows.numpy()])

    def fingerprint(self) -> str:
        """Changes with the place, name, size and time of any file."""
        digest = sha256(os.fsencode(self.root.resolve()))
        for name in self.relative:
            try:
                stat = os.stat(os.path.join(os.fsencode(self.root), bytes(name)))
                digest.update(b"%b %d %d " % (bytes(name), stat.st_size, stat.st_mtime_ns))
            except FileNotFoundError:  # a link to nowhere; decoding will say so
                digest.update(b"%b missing " % bytes(name))
        return digest.hexdigest()


def find(folder: Path) -> tuple[list[str], list[str]]:
    """All image files below a folder at any depth, as sorted relative paths, and the other files' names."""
    images, others, linked = [], [], set()
    for where, folders, files in os.walk(folder, followlinks=True):
        if os.path.islink(where):
            if os.path.realpath(where) in linked:  # a circle of links
                folders.clear()
                continue
            linked.add(os.path.realpath(where))
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        below = os.path.relpath(where, folder)
        for name in files:
            is_image = not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
            (images if is_image else others).append(name if below == "." else f"{below}/{name}")
    return sorted(images, key=lambda path: path.split("/")), others
