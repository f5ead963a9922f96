"""StoredRows: rows of bytes in a memory-mapped file, which several processes of a machine read and write."""

import errno
import os
import shutil
from pathlib import Path
from zlib import crc32

import numpy as np


class StoredRows:
    """Rows of the same size in a memory-mapped file, with a checksum for each.

    Processes that write the same row at the same time write the same bytes. A row counts only if its checksum is right,
    so that a process that ends while it writes damages nothing.

    Args:
        folder: Folder of the two files, which `create` has made.
        count: Number of rows.
        size: Number of bytes of a row.
    """

    def __init__(self, folder: Path, count: int, size: int) -> None:
        self._content = np.memmap(folder / "rows.bin", np.uint8, "r+", shape=(count, size))
        self._sums = np.memmap(folder / "checksums.bin", np.uint32, "r+", shape=(count,))
        self._right = np.zeros(count, bool)  # rows whose checksum this process has compared or written

    @staticmethod
    def create(folder: Path, count: int, size: int) -> None:
        """Create the files in a new folder. They take their place on the disk at once.

        Raises:
            OSError: if the disk has less free space, or if the files cannot be written.
        """
        for name, length in (("rows.bin", count * size), ("checksums.bin", count * 4)):
            with (folder / name).open("wb") as file:
                if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and not a signal in a later step
                    os.posix_fallocate(file.fileno(), 0, length)
                elif shutil.disk_usage(folder).free < length:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                else:
                    file.truncate(length)

    @property
    def filled(self) -> int:
        """Number of rows that were written."""
        return int(np.count_nonzero(self._sums))

    def read(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the content N,size of N rows, or None if a row was not written completely."""
        content, sums = self._content[rows], self._sums[rows]
        for place in np.flatnonzero(~self._right[rows]):
            if _checksum(content[place]) != sums[place]:
                return None
        self._right[rows] = True
        return content

    def write(self, rows: np.ndarray, content: np.ndarray) -> None:
        """Write the content N,size of N rows."""
        self._content[rows] = content
        self._sums[rows] = [_checksum(row) for row in content]
        self._right[rows] = True


def _checksum(row: np.ndarray) -> int:
    return crc32(row) or 1  # 0 means that the row was not written
