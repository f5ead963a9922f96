"""Expand and check paths and names that users give, and open regular files."""

import contextlib
import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import BinaryIO, Literal

from kd_lightning.errors import ConfigError, nearest
from kd_lightning.redaction import show_as_given


def check_writable(path: Path, field: str, *, kind: Literal["file", "folder"] = "folder") -> None:
    """Raise an error if a file or a folder cannot be written at a path. Nothing is created there.

    The check writes some bytes into an unnamed file of the nearest existing folder. It therefore also finds a full disk
    and a file system on which nothing can be written.

    Args:
        path: path of the file or folder to write.
        field: field of the path, for the message.
        kind: whether a file or a folder will be written.

    Raises:
        ConfigError: if the path or a parent folder is another kind of file, if the path is too long, or if the disk is
            read-only or full.
    """
    check_local(path, field)
    try:
        absolute = path.expanduser().absolute()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            absolute.stat()  # raises an error for a path that is too long
        existing = next(parent for parent in (absolute, *absolute.parents) if os.path.lexists(parent))
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: an unknown user after ~
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{field}: {str(path)[:160]} cannot be written to ({reason}); choose another path") from error
    if existing.is_symlink() and not existing.exists():
        raise ConfigError(f"{field}: {existing} is a link to a missing file, and cannot be written to; remove the link")
    check_regular(existing, field)
    if existing == absolute and kind == "file" and existing.is_dir():
        raise ConfigError(f"{field}: {path} is a folder; give the path of a file")
    if existing.is_file() and existing == absolute and kind == "folder":
        raise ConfigError(f"{field}: {existing} is a file; give a folder")
    if existing.is_file() and existing != absolute:
        raise ConfigError(f"{field}: {existing} is a file and not a folder, so {path} cannot be written to")
    folder = existing if existing.is_dir() else existing.parent
    try:
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(bytes(_PROBE))
    except OSError as error:
        reason = f"{folder} cannot be written to ({error.strerror})"
        raise ConfigError(f"{field}: {reason}; choose another path") from error


_PROBE = 1 << 16
"""Number of bytes that must be free."""


def numbered(folder: Path) -> Iterator[Path]:
    """Yield a folder, and then folders with a number of 2 or more at the end of its name, such as `report-2`."""
    yield folder
    for number in count(2):
        yield folder.with_name(f"{folder.name}-{number}")


def check_local(path: str | os.PathLike[str], field: str) -> None:
    """Raise an error for an address such as `s3://bucket/x`, which would otherwise be a folder named `s3:`.

    Raises:
        ConfigError: for such a path; the message names `field`.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)):
        raise ConfigError(f"{field}: {path} is an address, but only local files are read and written; give a path")


def check_name(name: str, field: str) -> None:
    """Raise an error if a name cannot be the name of a folder.

    Raises:
        ConfigError: for such a name. The message begins with `field`.
    """
    try:
        too_long = len(name.encode()) > 200
    except UnicodeEncodeError:
        too_long = True
    if too_long or name in ("", ".", "..") or not name.isprintable() or Path(name).name != name:
        rule = "use 1 to 200 printable characters without /, but not the names . or .."
        raise ConfigError(f"{field}: {name[:60]!r} cannot be the name of a folder; {rule}")


def check_regular(path: Path, field: str) -> None:
    """Raise an error for a pipe, a socket or a device, because reading it could wait forever.

    Raises:
        ConfigError: for such a path; the message names `field`.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ConfigError(f"{field}: {path} is a pipe, a socket or a device; give a regular file")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. The function never waits, as it would for a pipe.

    Raises:
        OSError: if the path is missing, unreadable, or not a regular file.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def read_text(path: Path) -> str:
    """Return the content of a regular file in UTF-8.

    Raises:
        OSError: if the path is missing, unreadable, or not a regular file.
        UnicodeDecodeError: if the content is not UTF-8.
    """
    with open_regular(path) as file:
        return file.read().decode("utf-8").replace("\r\n", "\n")


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a path with ~ and environment variables expanded. The path need not exist.

    Messages show the variables and not their values, which may be keys.
    """
    given = os.fspath(path)
    expanded = os.path.expandvars(os.path.expanduser(given))
    if "$" in given:
        show_as_given(given, expanded)
    return Path(expanded)


def resolve(path: str | os.PathLike[str], field: str) -> Path:
    """Return the path of an existing file or folder, with ~ and environment variables expanded.

    Raises:
        ConfigError: if the path does not exist or cannot be read. The message begins with `field`. If the path does not
            exist, the message also contains the nearest names in its folder.
    """
    if not str(path) or "\0" in str(path):
        raise ConfigError(f"{field}: {str(path)!r} is not a path; give a path, or omit the field")
    expanded = expand(path)
    try:
        exists = expanded.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or a folder without permission to read it
        reason = getattr(error, "strerror", None) or "it is not a path"
        shown = str(expanded) if len(str(expanded)) <= 160 else f"{str(expanded)[:157]}..."
        raise ConfigError(f"{field}: {shown} cannot be read: {reason}") from error
    if exists:
        check_regular(expanded, field)
        return expanded
    check_local(path, field)
    if "$" in str(expanded):
        raise ConfigError(f"{field}: {path} names an environment variable that is not set; set it, or give a path")
    siblings = [p.name for p in expanded.parent.iterdir()] if expanded.parent.is_dir() else []
    if not expanded.name.startswith("."):
        siblings = [name for name in siblings if not name.startswith(".")]
    raise ConfigError(f"{field}: {expanded} does not exist{nearest(expanded.name, siblings)}")
