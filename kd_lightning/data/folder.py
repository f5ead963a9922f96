"""ImageFolder: a user's own images, sorted into a folder a class."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sklearn.model_selection import train_test_split

from kd_lightning.data.archives import is_archive, unpacked
from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.images import FileImages
from kd_lightning.errors import ConfigError
from kd_lightning.paths import resolve


class ImageFolder(ImageData):
    """A folder of images: `train/<class>/*` beside `test/<class>/*` or `val/<class>/*`, or `<class>/*` alone.

    With both `val/` and `test/`, `val/` takes the place of the held-out split; with only one of them it is the test.
    Classes are the folders' names in alphabetical order; `Batch.indices` counts the files of a split in order of
    class, then path.

    Args:
        path: the folder, or a tar or zip archive of one (unpacked once, into the user's cache); `~` and environment
            variables are filled in.
        size: side in pixels that all images are brought to (shorter side resized, middle kept); default: the
            images' own, which must then be the same for all.
        test_split: share of the images (or, from 1 up, their number) that are the test where the folder has class
            folders alone; drawn by class and `split_seed`.
        **kwargs: as for every data set.

    Raises:
        ConfigError: for a folder that is missing, holds no images or no classes, or whose splits have other classes.
    """

    def __init__(self, *, path: str, size: int | None = None, test_split: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if size is not None and size < 1:
            raise ConfigError(f"data.size: {size} is not positive")
        if test_split <= 0:
            raise ConfigError(f"data.test_split: {test_split} is not positive")
        found = resolve(path, "data.path")
        self.path = unpacked(found) if is_archive(found) else found
        if not self.path.is_dir():
            raise ConfigError(f"data.path: {found} is neither a folder nor a tar or zip archive")
        self.size, self.test_split, self.name = size, test_split, self.path.name
        self.folders: dict[str, Path] = {"train": self.path}
        if (self.path / "train").is_dir():
            self.folders = {
                split: self.path / split for split in ("train", "val", "test") if (self.path / split).is_dir()
            }
            if "test" not in self.folders and "val" in self.folders:
                self.folders["test"] = self.folders.pop("val")
            if "test" not in self.folders:
                raise ConfigError(f"data.path: {self.path} has train/ but neither test/ nor val/ beside it")
        self.class_names = _classes(self.folders["train"])
        self.num_classes = len(self.class_names)
        for folder in self.folders.values():
            if _classes(folder) != self.class_names:
                odd = sorted(set(_classes(folder)) ^ set(self.class_names))
                raise ConfigError(f"data.path: {folder} and train/ differ in the classes {', '.join(odd[:3])}")

    @property
    def has_validation(self) -> bool:
        return "val" in self.folders or super().has_validation

    def load(self, split: Split) -> FileImages | None:
        if split == "val" and "val" not in self.folders:
            return None
        folder = self.folders.get(split, self.folders["train"])
        files, labels = [], []
        for label, name in enumerate(self.class_names):
            of_class = [file for file in sorted((folder / name).rglob("*")) if file.suffix.lower() in _suffixes()]
            if not of_class:
                raise ConfigError(f"data.path: {folder / name} holds no images")
            files += of_class
            labels += [label] * len(of_class)
        images = FileImages(files, torch.tensor(labels), self.size)
        if "test" in self.folders:
            return images
        count = self.test_split if self.test_split < 1 else int(self.test_split)
        try:
            train, test = train_test_split(
                range(len(files)), test_size=count, random_state=self.split_seed, stratify=labels
            )
        except ValueError as error:
            raise ConfigError(
                f"data.test_split: {self.test_split:g} cannot be drawn class by class ({error})"
            ) from error
        return images.subset(torch.tensor(sorted(train if split == "train" else test)))


def _classes(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        found = f"the folder{'s' * (len(names) != 1)} {', '.join(names)}" if names else "no folders"
        raise ConfigError(f"data.path: {folder} must hold a folder of images a class, two at least; it holds {found}")
    return names


def _suffixes() -> set[str]:
    return set(Image.registered_extensions())
