"""Class folders, or archives of them, of CIFAR-10 and CIFAR-100."""

from pathlib import Path
from typing import Any

from kd_lightning.data.archives import ENDINGS, folder_at, is_archive
from kd_lightning.data.files import SUFFIXES
from kd_lightning.data.folder import ImageFolder
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.io.paths import resolve


def class_folders(path: Path, classes: list[str], name: str, **kwargs: Any) -> ImageFolder | None:
    """Return the class folders at a path, or None if the path is the folder of the official files.

    Args:
        path: Folder or archive. A folder for the official files need not exist.
        classes: Names of the folders that are required.
        name: Name of the data set in messages.
        **kwargs: Arguments of `ImageFolder`.

    Raises:
        ConfigError: if an archive does not exist, or if the folders have other classes.
    """
    if "$" in str(path) or path.name.lower().endswith(ENDINGS):
        resolve(path, "data.path")
    if path.is_file() and not is_archive(path):
        raise ConfigError(f"data.path: {path} is neither a folder nor an archive ({', '.join(ENDINGS)})")
    folder = folder_at(str(path)) if is_archive(path) else path
    inner = _folders(folder / "train")  # without folders it may be a class called train
    train, found = (folder / "train", inner) if inner else (folder, _folders(folder))
    known = {*found} & {*classes}
    if not (inner or known or is_archive(path) or any(_has_images(folder / entry) for entry in found)):
        _check_level(folder, classes)
        return None
    images = ImageFolder(path=str(folder), **kwargs)
    for entry in images.class_names:
        if entry not in classes:
            hint = nearest(entry, classes)
            raise ConfigError(f"data.path: {train} has the class {entry!r}, which {name} does not have{hint}")
    if missing := [entry for entry in classes if entry not in images.class_names]:
        raise ConfigError(
            f"data.path: {train} has no folders for {len(missing)} of the classes of {name}, for example {missing[0]!r}"
            "; add these folders"
        )
    return images


def _check_level(folder: Path, classes: list[str]) -> None:
    """Raise an error if the folder is one level below or above the class folders. Nothing is then downloaded to it."""
    if folder.is_dir() and _has_images(folder):
        raise ConfigError(f"data.path: {folder} contains images; give the folder that contains one folder per class")
    entries = _folders(folder)
    if len(entries) == 1 and {*_folders(folder / entries[0]), *_folders(folder / entries[0] / "train")} & {*classes}:
        raise ConfigError(f"data.path: {folder} has no class folders; nearest: {folder / entries[0]}")


def _folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, or [] if the folder does not exist."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _has_images(folder: Path) -> bool:
    return any(entry.suffix.lower() in SUFFIXES for entry in folder.iterdir())
