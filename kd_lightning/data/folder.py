"""ImageFolder: a user's own images, in one folder per class or without labels."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from kd_lightning.data.archives import folder_at
from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.files import SUFFIXES, Files, but_others, find_images, others_counted, say_skipped, subfolders
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.words import counted

Found = dict[str, tuple[list[str], list[str]]]
"""Images and other files of each class folder, by the name of the folder."""


class ImageFolder(ImageData):
    """A folder of images: `train/<class>/*` with `test/<class>/*` or `val/<class>/*`, or just `<class>/*`.

    If both `val/` (or `valid/`) and `test/` exist, `val/` is the validation split, and no images are held out. If only
    one of them exists, it is the test split. Classes are the names of the folders in alphabetical order.
    `Batch.indices` count the files of a split in the order of the classes, and then of the paths. Files that are not
    images are skipped and counted.

    Args:
        path: Path of the folder, or of a tar or zip archive of the folder. An archive is unpacked once, into the user's
            cache. `~` and environment variables are expanded.
        size: Side of all images in pixels. The shorter side is resized to this number of pixels, and the centre is
            cropped. Default: images are not resized, and all must have the same size.
        crop_ratio: Share of the resized side that the crop of the centre keeps. With 0.875 and size 224, images are
            resized to 256 pixels and cropped to 224 pixels. Random crops do not use this argument.
        test_split: Share of all images that forms the test split, if the folder has only class folders. A value of 1 or
            more is a number of images. The images are stratified by class and drawn with `split_seed`. With 0, which
            is valid only if `labeled` is false, every image in the folder and its subfolders is used.
        labeled: Whether the names of the folders are labels. If false, no label is read, but the images are split as
            with labels: a run trains on the same training images, and the test images are held out. The share
            `val_split` is also held out to compare student and teacher. If the images are not in class folders, all
            images in the folder and its subfolders are used. `fit` runs no test, and the commands `test` and `predict`
            read the test images, or all images if none are held out.
        num_classes: Number of outputs of the student's classifier if there are no labels. Use the teacher's number of
            classes, or 0 for a student without a classifier.
        **kwargs: Arguments of every data set.

    Raises:
        ConfigError: if the folder is missing, contains no images or no classes, or has splits with different classes.
    """

    def __init__(
        self,
        *,
        path: str,
        size: int | None = None,
        crop_ratio: float = 1.0,
        test_split: float = 0.2,
        labeled: bool = True,
        num_classes: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if labeled or test_split:
            check_positive(**{"data.test_split": test_split})
        if labeled and num_classes is not None:
            raise ConfigError(
                "data.num_classes: the folders already define the classes; omit it, or set data.labeled to false"
            )
        self.path = folder_at(path)
        self.size, self.crop_ratio, self.test_split, self.labeled = size, crop_ratio, test_split, labeled
        self.name = self.path.name
        self.folders = self._splits()
        if not labeled:
            self.class_names, self.num_classes = [], num_classes or 0
            self.test_split_advice = {**self.test_split_advice, "hint": "0 uses every image and holds out none"}
            return
        self.class_names = _classes(self.folders["train"])
        self.num_classes = len(self.class_names)
        for folder in self.folders.values():
            if _classes(folder) != self.class_names:
                differing = sorted(set(_classes(folder)) ^ set(self.class_names))
                raise ConfigError(f"data.path: {folder} and train/ differ in the classes {', '.join(differing[:3])}")

    def _splits(self) -> dict[str, Path]:
        train, undivided = self.path / "train", {"train": self.path}
        if "train" not in subfolders(self.path) or (self.labeled and not subfolders(train)):  # a class called train
            return undivided
        names = {"train": "train", "val": "val", "valid": "val", "test": "test"}
        folders = {split: self.path / name for name, split in names.items() if (self.path / name).is_dir()}
        if "test" not in folders and "val" in folders:
            folders["test"] = folders.pop("val")
        if not self.labeled and ("test" not in folders or not self.test_split):
            return undivided
        if "test" not in folders:
            raise ConfigError(f"data.path: {self.path} has train/ but neither test/ nor val/")
        return folders

    @property
    def has_validation(self) -> bool:
        return "val" in self.folders or super().has_validation

    def load(self, split: Split) -> EncodedImages | None:
        if split == "val" and "val" not in self.folders:
            return None
        folder = self.folders.get(split, self.folders["train"])
        found = self._found(folder)
        images = self._images(folder, found)
        undivided = "test" not in self.folders and [*found] != [""]
        part = self.part(images, split) if undivided else images
        if not self.labeled and split == "train":
            self._explain(folder, found, len(images) - len(part))
        return part

    def _found(self, folder: Path) -> Found:
        """Return the images and the other files of each class folder.

        Without labels, class folders are folders that contain images. If there are fewer than two, or if no test images
        are held out, the only key is '', with all images below the folder.
        """
        if self.labeled:
            return {name: find_images(folder / name) for name in self.class_names}
        if self.test_split:
            found = {name: find_images(folder / name) for name in subfolders(folder)}
            if sum(bool(images) for images, _ in found.values()) > 1:
                return found
        return {"": find_images(folder)}

    def _explain(self, folder: Path, found: Found, count: int) -> None:
        """Say which images a run without labels does not use, and why."""
        if "test" in self.folders:
            count = sum(len(images) for images, _ in self._found(self.folders["test"]).values())
            reason = f"all images in {self.folders['test']}"
        elif count:
            reason = f"drawn from the folders in {folder} by data.test_split {self.test_split:g}"
        else:
            why = "the images are not in class folders" if self.test_split else "data.test_split is 0"
            self.held_out = f"no test images, because {why}"
            return
        outside = [entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES] if "" not in found else []
        others = f", and {counted(len(outside), 'image')} of {folder} outside of its folders" if outside else ""
        self.held_out = (
            f"{counted(count, 'test image')} ({reason}){others}, as in a run with labels; "
            "data.test_split 0 uses every image"
        )
        rank_zero_info(f"data.labeled: false holds out {self.held_out}")

    def _images(self, folder: Path, found: Found) -> EncodedImages:
        """Return the images in class folders. The class '' contains all images below the folder."""
        files: list[str] = []
        labels: list[int] = []
        others: list[str] = []
        empty: list[str] = []
        for label, (name, (images, other_files)) in enumerate(found.items()):
            if name and not images:
                empty.append(name)
            files += [f"{name}/{file}" if name else file for file in images]
            labels += [label if name else -1] * len(images)
            others += other_files
        if not files:
            raise ConfigError(f"data.path: {folder} contains no images{but_others(others)}")
        empty = empty if self.labeled else []
        if empty and folder == self.folders["train"]:
            found_others = f" (it contains {others_counted(there)})" if (there := found[empty[0]][1]) else ""
            raise ConfigError(
                f"data.path: {folder / empty[0]} contains no images{found_others}, but each class needs training "
                "images; add images, or remove the class"
            )
        for name in empty:
            rank_zero_warn(f"data.path: {folder / name} has no images, so the class is empty")
        say_skipped(folder, others)
        return EncodedImages(
            Files(folder, files),
            torch.tensor(labels),
            self.size,
            crop_ratio=self.crop_ratio,
            skip_unreadable=self.skip_unreadable,
            official_side=self.official_side,
        )


def _classes(folder: Path) -> list[str]:
    names = subfolders(folder)
    if len(names) < 2:
        description = f"the folder{'s' * (len(names) != 1)} {', '.join(names)}" if names else "no folders"
        raise ConfigError(
            f"data.path: {folder} must contain at least two folders, one per class; it contains {description} (for "
            "images without labels, set data.labeled to false)"
        )
    return names
