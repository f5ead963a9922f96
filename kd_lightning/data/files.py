"""Find image files in a folder and store their paths compactly."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Self

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from kd_lightning.data.formats import HEIC_ADVICE, READS_HEIC, problem_of
from kd_lightning.errors import ConfigError
from kd_lightning.words import counted

HEIC_SUFFIXES = frozenset(".heic .heif .hif".split())
SUFFIXES = frozenset(".jpg .jpeg .png .ppm .pgm .bmp .tif .tiff .webp .gif .jp2 .avif".split()) | (
    HEIC_SUFFIXES if READS_HEIC else frozenset()
)

_MOST_KINDS = 5
"""Number of extensions of other files that a message names."""


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
            except OSError:  # for example a broken link; decoding will report it
                digest.update(b"%b missing " % bytes(name))
        return digest.hexdigest()

    def unusable(self) -> Iterator[int]:
        """Yield the rows of files that are missing, empty, or not regular files, without reading any file."""
        root = os.fsencode(self.root)
        for row, name in enumerate(self.relative):
            try:
                facts = os.stat(os.path.join(root, bytes(name)))
            except OSError:
                yield row
                continue
            if problem_of(facts.st_mode, facts.st_size):
                yield row


def find_images(folder: Path, field: str = "data.path") -> tuple[list[str], list[str]]:
    """Return two lists for a folder and all its subfolders: the sorted relative paths of images, and other files.

    Raises:
        ConfigError: if a folder cannot be read, or if a link leads to a folder that contains it.
    """
    images, others, visited = [], [], set()
    for directory, folders, files in os.walk(folder, followlinks=True, onerror=partial(_raise_unreadable, field)):
        if os.path.islink(directory):
            real = os.path.realpath(directory)
            if any(os.path.commonpath((real, os.path.realpath(above))) == real for above in Path(directory).parents):
                raise ConfigError(f"{field}: {directory} is a link to a folder that contains it; remove the link")
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        relative = os.path.relpath(directory, folder)
        for name in files:
            is_image = not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
            (images if is_image else others).append(name if relative == "." else f"{relative}/{name}")
    return sorted(images, key=lambda path: path.split("/")), others


def others_counted(others: Sequence[str]) -> str:
    """Return the number of other files by extension, such as `12 .heic, 3 .mov`, and how HEIC files can be read."""
    counts = Counter(map(_kind_of, others))
    shown = sorted(counts, key=lambda kind: (-counts[kind], kind))[:_MOST_KINDS]
    unread = sorted(HEIC_SUFFIXES & counts.keys() - SUFFIXES)
    shown += [kind for kind in unread if kind not in shown]
    rest = len(others) - sum(counts[kind] for kind in shown)
    parts = [f"{counts[kind]:,} {kind}" for kind in shown] + ([counted(rest, "other")] if rest else [])
    return ", ".join(parts) + (f"; {HEIC_ADVICE}" if unread else "")


def but_others(others: Sequence[str]) -> str:
    """Return the end of the error for a folder without images: which other files it contains; '' if there are none."""
    return f", but {others_counted(others)}" if others else ""


def say_skipped(folder: Path, others: Sequence[str]) -> None:
    """Print one line with the number of other files in a folder with images; nothing if there are none."""
    if others:
        one = len(others) == 1
        skipped = "1 file is skipped that" if one else f"{len(others):,} files are skipped that"
        rank_zero_info(
            f"{folder}: {skipped} cannot be read as {'an image' if one else 'images'}: {others_counted(others)}"
        )


def _kind_of(path: str) -> str:
    name = os.path.basename(path)
    return "hidden" if name.startswith(".") else os.path.splitext(name)[1].lower() or "without extension"


def subfolders(folder: Path, field: str = "data.path") -> list[str]:
    """Return the sorted names of the folders in a folder, such as the class folders; hidden folders are ignored.

    Raises:
        ConfigError: if the folder cannot be read, or if a link in it leads to no existing folder or file.
    """
    names = []
    try:
        for entry in folder.iterdir():
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                names.append(entry.name)
            elif entry.suffix.lower() not in SUFFIXES and not os.path.exists(entry):  # an image is checked later
                raise ConfigError(
                    f"{field}: {entry} is a link that leads to no existing folder or file; repair or remove it"
                )
    except OSError as error:
        _raise_unreadable(field, error)
    return sorted(names)


def _raise_unreadable(field: str, error: OSError) -> None:
    raise ConfigError(f"{field}: {error.filename} cannot be read: {error.strerror}; repair or remove it") from error
