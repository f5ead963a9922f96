"""Find image files in a folder and store their paths compactly."""

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Self

import numpy as np
from torch import Tensor

SUFFIXES = frozenset(".jpg .jpeg .png .ppm .pgm .bmp .tif .tiff .webp .gif .jp2 .avif".split())


class Files(Sequence[Path]):
    """Paths below a folder, stored as one array of bytes. Workers then do not copy millions of Python objects.

    Args:
        root: Folder of the files.
        relative: Paths relative to `root`.
    """

    def __init__(self, root: Path, relative: Sequence[str] | np.ndarray) -> None:
        self.root = root
        is_array = isinstance(relative, np.ndarray)
        self.relative = relative if is_array else np.array([os.fsencode(path) for path in relative], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self.relative)

    def __getitem__(self, row: int) -> Path:
        return self.root / os.fsdecode(bytes(self.relative[row]))

    @property
    def names(self) -> "Files":
        """Names of the images in messages: their paths."""
        return self

    def subset(self, rows: Tensor) -> Self:
        return type(self)(self.root, self.relative[rows.numpy()])

    def fingerprint(self) -> str:
        """Return a hash of the location, names, sizes and modification times of the files."""
        digest = sha256(os.fsencode(self.root.resolve()))
        for name in self.relative:
            try:
                stat = os.stat(os.path.join(os.fsencode(self.root), bytes(name)))
                digest.update(b"%b %d %d " % (bytes(name), stat.st_size, stat.st_mtime_ns))
            except FileNotFoundError:  # a broken link; decoding will report it
                digest.update(b"%b missing " % bytes(name))
        return digest.hexdigest()


def find_images(folder: Path) -> tuple[list[str], list[str]]:
    """Return two lists for a folder and all its subfolders: the sorted relative paths of images, and other files."""
    images, others, visited = [], [], set()
    for directory, folders, files in os.walk(folder, followlinks=True):
        if os.path.islink(directory):
            if os.path.realpath(directory) in visited:  # a cycle of links
                folders.clear()
                continue
            visited.add(os.path.realpath(directory))
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        relative = os.path.relpath(directory, folder)
        for name in files:
            is_image = not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
            (images if is_image else others).append(name if relative == "." else f"{relative}/{name}")
    return sorted(images, key=lambda path: path.split("/")), others
