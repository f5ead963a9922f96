"""Unpack archives of images into the user's cache; reject path traversal and decompression bombs."""

import bz2
import gzip
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, Self

from lightning.pytorch.utilities import rank_zero_info

from kd_lightning.data import cache
from kd_lightning.errors import ConfigError, one_line
from kd_lightning.io.paths import resolve
from kd_lightning.redaction import show_instead

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")
MAX_ENTRIES = 5_000_000
"""Largest number of entries; ImageNet-1k has 1.3 million images."""
MAX_RATIO = 200
"""Largest ratio of content size to archive size. It can be small, because images are already compressed."""
MIN_LIMIT = 64_000_000
"""Content size in bytes that is always allowed, even for a very small archive."""
RESERVED_BYTES = 100_000_000
"""Number of bytes of disk space that must remain free."""
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_CHUNK = 1 << 20
_LARGEST_HEADER = 1 << 24
_FAULTS = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, struct.error, EOFError),
    *(ValueError, RuntimeError, ArithmeticError, LookupError),
)


class RejectedArchiveError(ValueError):
    """Error for an archive that is rejected. The message is the reason."""


class Entry(NamedTuple):
    """A file or folder in an archive, before it is written to the disk."""

    name: str
    size: int
    """Size in bytes declared by the archive."""
    content: IO[bytes] | None
    """The content; None for a folder."""


def is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ENDINGS)


def folder_at(path: str, field: str = "data.path") -> Path:
    """Return the folder at a path, or the folder in an archive at the path.

    Raises:
        ConfigError: if the path does not exist, or if it is neither a folder nor an archive. The message names `field`.
    """
    resolved = resolve(path, field)
    folder = unpack_to_cache(resolved, field) if is_archive(resolved) else resolved
    if not folder.is_dir():
        raise ConfigError(f"{field}: {resolved} is neither a folder nor a tar or zip archive")
    return folder


def unpacked_folder(archive: Path) -> Path:
    """Return the folder in the cache into which an archive is unpacked. It need not exist."""
    facts = archive.stat()
    stem = archive.name.split(".")[0]
    return cache.home() / f"{stem}-{facts.st_size:x}-{facts.st_mtime_ns:x}" / stem


def unpack_to_cache(archive: Path, field: str = "data.path") -> Path:
    """Return the folder of an unpacked archive. If necessary, unpack it into $XDG_CACHE_HOME/kd_lightning (~/.cache).

    The archive is unpacked into a temporary folder, which is renamed when it is complete. A rejected archive leaves no
    files. Messages show a file in the folder as a path in the archive (`photos.tar/cat/1.jpg`).

    Raises:
        ConfigError: if the archive is corrupt or not accepted (see `extract`). The message names `field`.
    """
    home, target = cache.home(), unpacked_folder(archive)
    show_instead(str(archive), str(target))
    if not target.exists():
        rank_zero_info(f"unpacking {archive.name} into {home} (only once)")
        with _Unpacking(archive, home, field) as partial:
            entries = [entry for entry in partial.iterdir() if entry.name != "__MACOSX"]
            inner = entries[0] if len(entries) == 1 and entries[0].is_dir() else partial
            target.parent.mkdir(exist_ok=True)
            try:
                os.replace(inner, target)
            except OSError:
                if not target.exists():  # otherwise another process was faster
                    raise
    return target


def extract(archive: Path, target: Path, field: str = "data.path") -> None:
    """Check a complete tar or zip archive, and unpack it into a folder. Files with the same names are replaced.

    Only regular files and folders are unpacked. An archive is rejected if it contains any of the following:

    - names that are absolute, or that contain `..`, a backslash or a drive
    - links, devices, pipes or sparse files
    - duplicate names (on case-insensitive disks also names that differ only in case)
    - encrypted files
    - more than MAX_ENTRIES entries
    - too much content, by declared or by actual size: more than MAX_RATIO times the size of the archive, or more than
      the free disk space (MIN_LIMIT bytes are always allowed)

    Permissions and owners in the archive are ignored.

    Raises:
        ConfigError: if the archive is corrupt or not accepted. No files remain, and the message names `field`.
    """
    with _Unpacking(archive, target, field) as partial:
        for path in sorted(partial.rglob("*")):
            target_path = target / path.relative_to(partial)
            if path.is_dir():
                target_path.mkdir(exist_ok=True)
            else:
                os.replace(path, target_path)


class _Unpacking:
    """Context manager that unpacks an archive into a temporary folder, and removes the folder on exit."""

    def __init__(self, archive: Path, home: Path, field: str) -> None:
        self.archive, self.home, self.field = archive, home, field

    def __enter__(self) -> Path:
        self.partial: Path | None = None
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            self.partial = Path(tempfile.mkdtemp(prefix=f"{self.archive.name.split('.')[0]}-", dir=self.home))
            _write(self.archive, self.partial)
            self.partial.chmod(0o755)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self.partial

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        if self.partial:
            shutil.rmtree(self.partial, ignore_errors=True)
        if isinstance(error, _FAULTS):
            reason = one_line(error)
            raise ConfigError(
                f"{self.field}: {self.archive} is corrupt or not accepted ({reason}); give another archive"
            ) from error
        if isinstance(error, OSError):
            raise ConfigError(
                f"{self.field}: {self.archive} cannot be unpacked into {self.home} ({error.strerror or error}); "
                "make sure that this folder is writable and has free space"
            ) from error


def _write(archive: Path, folder: Path) -> None:
    """Write an archive's entries into an empty folder."""
    size = archive.stat().st_size
    free = shutil.disk_usage(folder).free - RESERVED_BYTES
    limit = min(max(MIN_LIMIT, MAX_RATIO * size), free)
    bound = "the free space of this disk" if limit == free else f"{MAX_RATIO} times its size"
    too_large = (
        f"it contains more than {limit:,} bytes, {bound}; if it is valid, unpack it manually and give the folder"
    )
    ignores_case = folder.with_name(folder.name.swapcase()).exists()
    spelling: dict[str, str] = {}
    written = 0
    read_entries = _zip_entries if archive.name.lower().endswith(".zip") else _tar_entries
    for count, entry in enumerate(read_entries(archive, limit, too_large)):
        if count >= MAX_ENTRIES:
            raise RejectedArchiveError(f"it contains more than {MAX_ENTRIES:,} files")
        name = _inside(entry.name)
        if ignores_case:
            for part in (name, *name.parents):
                if spelling.setdefault(str(part).casefold(), str(part)) != str(part):
                    raise RejectedArchiveError(f"{_quoted(entry.name)} differs from another name only in case")
        target_path = folder / name
        try:
            if entry.content is None:
                target_path.mkdir(parents=True, exist_ok=True)
                continue
            target_path.parent.mkdir(parents=True, exist_ok=True)
            file = target_path.open("xb")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise RejectedArchiveError(f"{_quoted(entry.name)} occurs twice") from None
        with file, entry.content:
            if written + entry.size > limit:
                raise RejectedArchiveError(too_large)
            remaining = entry.size
            while chunk := entry.content.read(min(_CHUNK, remaining + 1)):
                remaining, written = remaining - len(chunk), written + len(chunk)
                if remaining < 0 or written > limit:
                    raise RejectedArchiveError(f"{_quoted(entry.name)} is larger than declared in the archive")
                file.write(chunk)
            if remaining:
                raise EOFError(f"{_quoted(entry.name)} is truncated")


def _zip_entries(archive: Path, limit: int, too_large: str) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as file:
        infos = file.infolist()
        if sum(info.file_size for info in infos) > limit:
            raise RejectedArchiveError(too_large)
        for info in infos:
            file_type = stat.S_IFMT(info.external_attr >> 16)
            if file_type not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise RejectedArchiveError(f"{_quoted(info.orig_filename)} is a link or a device, not a file")
            if info.flag_bits & 0x1:
                raise RejectedArchiveError(f"{_quoted(info.orig_filename)} is encrypted; unpack it manually")
            if info.is_dir():
                yield Entry(info.orig_filename, 0, None)
            else:
                yield Entry(info.orig_filename, info.file_size, file.open(info))


def _tar_entries(archive: Path, limit: int, too_large: str) -> Iterator[Entry]:
    with archive.open("rb") as file:
        start = file.read(6)
    opener = next((open_file for magic, open_file in _COMPRESSED.items() if start.startswith(magic)), Path.open)
    with (
        opener(archive, "rb") as plain,
        _Bounded(plain, 2 * limit + MAX_RATIO * _CHUNK, too_large) as stream,
        tarfile.open(fileobj=stream, mode="r:") as file,
    ):
        last_offset = -1
        while (info := file.next()) is not None:
            file.members.clear()  # they are used once, and there may be millions
            if info.size < 0 or file.offset <= last_offset:  # a header that points back would cause an endless loop
                raise RejectedArchiveError(f"{_quoted(info.name)} has a size below 0")
            last_offset = file.offset
            if info.isdir():
                yield Entry(info.name, 0, None)
            elif info.isreg() and not info.issparse():
                yield Entry(info.name, info.size, file.extractfile(info))
            else:
                file_type = (
                    "link" if info.issym() or info.islnk() else "sparse file" if info.issparse() else "device or pipe"
                )
                raise RejectedArchiveError(
                    f"{_quoted(info.name)} is a {file_type}; only regular files and folders are unpacked"
                )
        stream.seek(file.offset)  # tarfile treats a broken header as the end
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError("it is truncated or corrupt")


class _Bounded:
    """Reader of the bytes of a tar with limits. A wrong header can neither need gigabytes of memory nor cause a loop.

    Args:
        file: File object of the decompressed tar.
        limit: Largest number of bytes that may be read.
        too_large: Error message that is used if more bytes are read.
    """

    def __init__(self, file: IO[bytes], limit: int, too_large: str) -> None:
        self.file, self.remaining, self.too_large = file, limit, too_large

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise RejectedArchiveError(f"it has a header of {size:,} bytes")
        self.remaining -= size
        if self.remaining < 0:
            raise RejectedArchiveError(self.too_large)
        return self.file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and offset - self.file.tell() > self.remaining:
            raise RejectedArchiveError(self.too_large)
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _inside(name: str) -> PurePosixPath:
    """Return an entry's name as a path within the folder.

    Raises:
        RejectedArchiveError: if the name is not such a path.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or re.match(r"[A-Za-z]:", name):
        raise RejectedArchiveError(f"{_quoted(name)} would leave its folder")
    if any(ord(letter) < 32 for letter in name) or any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise RejectedArchiveError(f"{_quoted(name)} is not a valid file name")
    return path


def _quoted(name: str) -> str:
    return ascii(name if len(name) <= 80 else f"{name[:77]}...")
