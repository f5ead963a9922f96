"""Paths as people write them."""

import os
from pathlib import Path

from kd_lightning.errors import ConfigError, nearest


def check_writable(path: Path, field: str) -> None:
    """Refuses a path that could not be made or written to, without making it.

    Raises:
        ConfigError: naming `field`.
    """
    absolute = path.expanduser().absolute()
    there = next(above for above in (absolute, *absolute.parents) if above.exists())
    if there == absolute and there.is_file():
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise ConfigError(f"{field}: {there} cannot be written to; choose another place")


def check_name(name: str, field: str) -> None:
    """Refuses what cannot be the name of one folder.

    Raises:
        ConfigError: naming `field`.
    """
    try:
        long = len(name.encode()) > 200
    except UnicodeEncodeError:
        long = True
    if long or name in ("", ".", "..") or not name.isprintable() or Path(name).name != name:
        what = "a folder's name, 1 to 200 printable characters, without / and not .."
        raise ConfigError(f"{field}: {name[:60]!r} is to be {what}")


def expand(path: str | os.PathLike[str]) -> Path:
    """The path with ~ and environment variables filled in, whether anything is there or not."""
    return Path(os.path.expandvars(os.path.expanduser(path)))


def resolve(path: str | os.PathLike[str], field: str) -> Path:
    """The path with ~ and environment variables filled in.

    Raises:
        ConfigError: naming `field` if there is nothing at that path, with the files that are near it.
    """
    if not str(path) or "\0" in str(path):
        raise ConfigError(f"{field}: {str(path)!r} is no path; give one, or leave it out")
    found = expand(path)
    try:
        if found.exists():
            return found
    except (OSError, ValueError) as error:  # a name that is too long, a folder that may not be looked into
        reason = getattr(error, "strerror", None) or "it is no path"
        shown = str(found) if len(str(found)) <= 160 else f"{str(found)[:157]}..."
        raise ConfigError(f"{field}: {shown} cannot be read: {reason}") from error
    if "$" in str(found):
        raise ConfigError(f"{field}: {path} names an environment variable that is not set: export it, or give a path")
    beside = [p.name for p in found.parent.iterdir()] if found.parent.is_dir() else []
    raise ConfigError(f"{field}: {found} does not exist{nearest(found.name, beside)}")
