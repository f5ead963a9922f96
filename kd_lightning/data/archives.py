"""Archives of images, unpacked once into the user's cache."""

import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from kd_lightning.data import cache
from kd_lightning.errors import ConfigError
from kd_lightning.paths import resolve

if not hasattr(tarfile, "data_filter"):  # Python 3.11 before 3.11.4, as Debian 12 has it
    from backports import tarfile

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")


def is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ENDINGS)


def folder_at(path: str, field: str = "data.path") -> Path:
    """The folder at a path, or the one that an archive there holds.

    Raises:
        ConfigError: naming `field` for a path that is missing, or neither.
    """
    found = resolve(path, field)
    folder = unpacked(found) if is_archive(found) else found
    if not folder.is_dir():
        raise ConfigError(f"{field}: {found} is neither a folder nor a tar or zip archive")
    return folder


def unpacked(archive: Path) -> Path:
    """The folder that the archive holds, in $XDG_CACHE_HOME/kd_lightning (~/.cache), unpacked where it is not yet.

    It is unpacked beside its place and moved there when whole. Entries that would leave the folder, links out of it
    and devices are refused (tarfile's `data` filter; zipfile strips such paths).

    Raises:
        ConfigError: for an archive that is corrupt or refused.
    """
    stat = archive.stat()
    stem = archive.name.split(".")[0]
    home = cache.home()
    target = home / f"{stem}-{stat.st_size:x}-{stat.st_mtime_ns:x}" / stem
    if not target.exists():
        target.parent.parent.mkdir(parents=True, exist_ok=True)
        rank_zero_info(f"unpacking {archive.name} into {home}, once")
        partial = Path(tempfile.mkdtemp(prefix=f"{stem}-", dir=home))
        try:
            extract(archive, partial)
            held = [entry for entry in partial.iterdir() if entry.name != "__MACOSX"]
            inner = held[0] if len(held) == 1 and held[0].is_dir() else partial
            target.parent.mkdir(exist_ok=True)
            os.replace(inner, target)
        except FileExistsError:
            pass  # another process was first
        except OSError as error:
            if not target.exists():  # os.replace onto a folder that another process filled
                raise ConfigError(f"data.path: {archive} cannot be unpacked into {home} ({error})") from error
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise ConfigError(f"data.path: {archive} is corrupt or refused ({error})") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def extract(archive: Path, target: Path) -> None:
    """Unpacks a tar or zip archive into a folder; nothing leaves it (tarfile's `data` filter)."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            file.extractall(target)
    else:
        with tarfile.open(archive) as file:
            file.extractall(target, filter="data")
