"""ImageFolder: a user's own images, in one folder per class or without labels."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from kd_lightning.data.archives import folder_at
from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.files import Files, find_images, subfolders
from kd_lightning.errors import ConfigError, check_positive


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
            more is a number of images. The images are stratified by class and drawn with `split_seed`.
        labeled: Whether the names of the folders are labels. If false, all images in the folder and its subfolders are
            used without labels. The share `val_split` is then held out to compare student and teacher. `fit` runs no
            test, and the commands `test` and `predict` read all images.
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
        check_positive(**{"data.test_split": test_split})
        if labeled and num_classes is not None:
            raise ConfigError(
                "data.num_classes: the folders already define the classes; omit it, or set data.labeled to false"
            )
        self.path = folder_at(path)
        self.size, self.crop_ratio, self.test_split, self.labeled = size, crop_ratio, test_split, labeled
        self.name = self.path.name
        if not labeled:
            self.folders, self.class_names, self.num_classes = {}, [], num_classes or 0
            return
        self.folders = self._splits()
        self.class_names = _classes(self.folders["train"])
        self.num_classes = len(self.class_names)
        for folder in self.folders.values():
            if _classes(folder) != self.class_names:
                differing = sorted(set(_classes(folder)) ^ set(self.class_names))
                raise ConfigError(f"data.path: {folder} and train/ differ in the classes {', '.join(differing[:3])}")

    def _splits(self) -> dict[str, Path]:
        train = self.path / "train"
        if "train" not in subfolders(self.path) or not subfolders(train):  # it may be a class called train
            return {"train": self.path}
        names = {"train": "train", "val": "val", "valid": "val", "test": "test"}
        folders = {split: self.path / name for name, split in names.items() if (self.path / name).is_dir()}
        if "test" not in folders and "val" in folders:
            folders["test"] = folders.pop("val")
        if "test" not in folders:
            raise ConfigError(f"data.path: {self.path} has train/ but neither test/ nor val/")
        return folders

    @property
    def has_validation(self) -> bool:
        return "val" in self.folders or super().has_validation

    def load(self, split: Split) -> EncodedImages | None:
        if not self.labeled:
            return None if split == "val" else self._images(self.path, [""])
        if split == "val" and "val" not in self.folders:
            return None
        images = self._images(self.folders.get(split, self.folders["train"]), self.class_names)
        if "test" in self.folders:
            return images
        return self.part(images, split)

    def _images(self, folder: Path, classes: list[str]) -> EncodedImages:
        """Return the images in the class folders. For the single class '', return all images below, without labels."""
        files: list[str] = []
        labels: list[int] = []
        others: list[str] = []
        empty: list[str] = []
        for label, name in enumerate(classes):
            images, other_files = find_images(folder / name)
            if name and not images:
                empty.append(name)
            files += [f"{name}/{file}" if name else file for file in images]
            labels += [label if name else -1] * len(images)
            others += other_files
        if not files:
            raise ConfigError(f"data.path: {folder} contains no images")
        if empty and folder == self.folders["train"]:
            raise ConfigError(
                f"data.path: {folder / empty[0]} contains no images, but each class needs training images; add images, "
                "or remove the class"
            )
        for name in empty:
            rank_zero_warn(f"data.path: {folder / name} has no images, so the class is empty")
        if others:
            rank_zero_info(f"{folder}: {len(others):,} files that are not images are skipped ({others[0]}, ...)")
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
            "images without labels, set labeled: false)"
        )
    return names
