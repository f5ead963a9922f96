"""Expand and check paths and names that users give, and open regular files."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from kd_lightning.errors import ConfigError, nearest
from kd_lightning.redaction import show_as_given


def check_writable(path: Path, field: str) -> None:
    """Raise an error if a path cannot be created or written to. The check itself creates nothing.

    Raises:
        ConfigError: for such a path. The message begins with `field`.
    """
    absolute = path.expanduser().absolute()
    existing = next(parent for parent in (absolute, *absolute.parents) if parent.exists())
    if existing == absolute and existing.is_file():
        existing = existing.parent
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise ConfigError(f"{field}: {existing} cannot be written to; choose another path")


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
    """Raise an error for a pipe, a socket or a device: reading it could wait without end.

    Raises:
        ConfigError: for such a path; the message names `field`.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ConfigError(f"{field}: {path} is a pipe, a socket or a device; give a regular file")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; nothing is waited for.

    Raises:
        OSError: if the path is missing, unreadable, or not a regular file.
    """
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
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
    if "$" in str(expanded):
        raise ConfigError(f"{field}: {path} names an environment variable that is not set; set it, or give a path")
    siblings = [p.name for p in expanded.parent.iterdir()] if expanded.parent.is_dir() else []
    raise ConfigError(f"{field}: {expanded} does not exist{nearest(expanded.name, siblings)}")
