"""Archives of images, unpacked once into the user's cache; nothing in them leaves its folder or fills the disk."""

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

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")
MOST_ENTRIES = 5_000_000
"""ImageNet-1k has 1.3 million images."""
MOST_RATIO = 200
"""How many times larger than the archive its content may be: images are compressed already."""
ALWAYS = 64_000_000
"""Bytes that any archive may unpack to, however small it is."""
SPARED = 100_000_000
"""Bytes that stay free on the disk."""
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_CHUNK = 1 << 20
_LARGEST_HEADER = 1 << 24
_FAULTS = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, struct.error, EOFError),
    *(ValueError, RuntimeError, ArithmeticError, LookupError),
)


class RefusedError(ValueError):
    """An archive that is not unpacked; the message says why."""


class Entry(NamedTuple):
    """A file or folder of an archive, before anything is written."""

    name: str
    size: int
    """Bytes, as the archive declares them."""
    content: IO[bytes] | None
    """None for a folder."""


def is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ENDINGS)


def folder_at(path: str, field: str = "data.path") -> Path:
    """The folder at a path, or the one that an archive there holds.

    Raises:
        ConfigError: naming `field` for a path that is missing, or neither.
    """
    found = resolve(path, field)
    folder = unpacked(found, field) if is_archive(found) else found
    if not folder.is_dir():
        raise ConfigError(f"{field}: {found} is neither a folder nor a tar or zip archive")
    return folder


def unpacked(archive: Path, field: str = "data.path") -> Path:
    """The folder that the archive holds, in $XDG_CACHE_HOME/kd_lightning (~/.cache), unpacked where it is not yet.

    It is unpacked beside its place and moved there when whole; an archive that is refused leaves nothing behind.

    Raises:
        ConfigError: naming `field` for an archive that is corrupt or refused (`extract` says which are).
    """
    facts = archive.stat()
    stem = archive.name.split(".")[0]
    home = cache.home()
    target = home / f"{stem}-{facts.st_size:x}-{facts.st_mtime_ns:x}" / stem
    if not target.exists():
        rank_zero_info(f"unpacking {archive.name} into {home}, once")
        with _Unpacking(archive, home, field) as partial:
            held = [entry for entry in partial.iterdir() if entry.name != "__MACOSX"]
            inner = held[0] if len(held) == 1 and held[0].is_dir() else partial
            target.parent.mkdir(exist_ok=True)
            try:
                os.replace(inner, target)
            except OSError:
                if not target.exists():  # else another process was first
                    raise
    return target


def extract(archive: Path, target: Path, field: str = "data.path") -> None:
    """Unpacks a tar or zip archive into a folder, over files of the same names, when all of it has been found right.

    Only plain files and folders are taken. Refused are names that are absolute, have `..`, a backslash or a drive;
    links, devices, pipes and sparse files; a name that comes twice (or, where the disk does not tell case apart,
    differs in case alone); encryption; more than MOST_ENTRIES; and content above MOST_RATIO times the archive's size
    (ALWAYS bytes are allowed) or above what the disk has free, both by the declared sizes and by what really comes.
    Rights and owners in the archive are not taken over.

    Raises:
        ConfigError: naming `field` for an archive that is corrupt or refused; nothing is then left of it.
    """
    with _Unpacking(archive, target, field) as partial:
        for path in sorted(partial.rglob("*")):
            place = target / path.relative_to(partial)
            if path.is_dir():
                place.mkdir(exist_ok=True)
            else:
                os.replace(path, place)


class _Unpacking:
    """An archive's content in a temporary folder inside another folder, which is gone in the end."""

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
            raise ConfigError(f"{self.field}: {self.archive} is corrupt or refused ({reason})") from error
        if isinstance(error, OSError):
            raise ConfigError(
                f"{self.field}: {self.archive} cannot be unpacked into {self.home} ({error.strerror or error})"
            ) from error


def _write(archive: Path, folder: Path) -> None:
    """Writes an archive's entries into an empty folder of our own."""
    size = archive.stat().st_size
    free = shutil.disk_usage(folder).free - SPARED
    limit = min(max(ALWAYS, MOST_RATIO * size), free)
    bound = f"{limit:,} bytes, what this disk has free" if limit == free else f"{limit:,} bytes, {MOST_RATIO} times it"
    too_large = f"it holds more than {bound}; if it is right all the same, unpack it by hand and give the folder"
    ignores_case = folder.with_name(folder.name.swapcase()).exists()
    spelled: dict[str, str] = {}
    written = 0
    is_zip = archive.name.lower().endswith(".zip")
    for count, entry in enumerate(_of_zip(archive, limit, too_large) if is_zip else _of_tar(archive, limit, too_large)):
        if count >= MOST_ENTRIES:
            raise RefusedError(f"it holds more than {MOST_ENTRIES:,} files")
        name = _inside(entry.name)
        if ignores_case:
            for part in (name, *name.parents):
                if spelled.setdefault(str(part).casefold(), str(part)) != str(part):
                    raise RefusedError(f"{_shown(entry.name)} differs from another name in case alone")
        place = folder / name
        try:
            if entry.content is None:
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            file = place.open("xb")
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise RefusedError(f"{_shown(entry.name)} comes twice") from None
        with file, entry.content:
            if written + entry.size > limit:
                raise RefusedError(too_large)
            left = entry.size
            while chunk := entry.content.read(min(_CHUNK, left + 1)):
                left, written = left - len(chunk), written + len(chunk)
                if left < 0 or written > limit:
                    raise RefusedError(f"{_shown(entry.name)} is larger than the archive says")
                file.write(chunk)
            if left:
                raise EOFError(f"{_shown(entry.name)} is cut off")


def _of_zip(archive: Path, limit: int, too_large: str) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as file:
        infos = file.infolist()
        if sum(info.file_size for info in infos) > limit:
            raise RefusedError(too_large)
        for info in infos:
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise RefusedError(f"{_shown(info.orig_filename)} is a link or a device, no file")
            if info.flag_bits & 0x1:
                raise RefusedError(f"{_shown(info.orig_filename)} is encrypted; unpack it by hand")
            if info.is_dir():
                yield Entry(info.orig_filename, 0, None)
            else:
                yield Entry(info.orig_filename, info.file_size, file.open(info))


def _of_tar(archive: Path, limit: int, too_large: str) -> Iterator[Entry]:
    with archive.open("rb") as file:
        start = file.read(6)
    opener = next((each for magic, each in _COMPRESSED.items() if start.startswith(magic)), Path.open)
    with (
        opener(archive, "rb") as plain,
        _Bounded(plain, 2 * limit + MOST_RATIO * _CHUNK, too_large) as stream,
        tarfile.open(fileobj=stream, mode="r:") as file,
    ):
        before = -1
        while (info := file.next()) is not None:
            file.members.clear()  # they are asked for once, and there may be millions
            if info.size < 0 or file.offset <= before:  # a header that points back would be read for ever
                raise RefusedError(f"{_shown(info.name)} has a size below 0")
            before = file.offset
            if info.isdir():
                yield Entry(info.name, 0, None)
            elif info.isreg() and not info.issparse():
                yield Entry(info.name, info.size, file.extractfile(info))
            else:
                kind = (
                    "link" if info.issym() or info.islnk() else "sparse file" if info.issparse() else "device or pipe"
                )
                raise RefusedError(f"{_shown(info.name)} is a {kind}; plain files and folders alone are unpacked")
        stream.seek(file.offset)  # tarfile takes a broken header for the end
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError("it is cut off, or broken within")


class _Bounded:
    """A tar's bytes, of which no header takes gigabytes of memory and all together no end of time.

    Args:
        file: the tar, decompressed.
        limit: how many of its bytes may be read.
        too_large: what is said beyond.
    """

    def __init__(self, file: IO[bytes], limit: int, too_large: str) -> None:
        self.file, self.left, self.too_large = file, limit, too_large

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise RefusedError(f"it has a header of {size:,} bytes")
        self.left -= size
        if self.left < 0:
            raise RefusedError(self.too_large)
        return self.file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and offset - self.file.tell() > self.left:
            raise RefusedError(self.too_large)
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _inside(name: str) -> PurePosixPath:
    """An entry's name as a path that stays in the folder.

    Raises:
        RefusedError: for any other.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or re.match(r"[A-Za-z]:", name):
        raise RefusedError(f"{_shown(name)} would leave its folder")
    if any(ord(letter) < 32 for letter in name) or any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise RefusedError(f"{_shown(name)} is no name of a file")
    return path


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else f"{name[:77]}...")
