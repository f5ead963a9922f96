"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009)."""

import pickle
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from kd_lightning.data import cifar_classes
from kd_lightning.data.archives import extract
from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.cifar_folders import class_folders
from kd_lightning.data.downloads import fetch
from kd_lightning.data.folder import ImageFolder
from kd_lightning.data.images import ImageDataset, StoredImages
from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import expand


class CIFAR10(ImageData):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in 10 classes.

    Classes are in the official order, from airplane to truck. `Batch.indices` follow the order of the official batch
    files. For class folders, they follow the order of the classes, and then of the paths.

    Args:
        path: Folder with the official files (`cifar-10-batches-py`), or a folder with one folder of images per class.
            Missing official files are downloaded to this folder. Class folders may be in `train/` and `test/`. Without
            `train/` and `test/`, 20 % of the images are the test split. The path may also be a tar or zip archive of
            such a folder. `~` and environment variables are expanded.
        **kwargs: Arguments of every data set.

    Raises:
        ConfigError: if files are missing, if the class folders have other names, or if images have another size.
    """

    num_classes = 10
    class_names = official_classes = cifar_classes.CIFAR10
    name = "cifar10"
    official_side = 32
    official = datasets.CIFAR10
    labels_key = "labels"

    def __init__(self, *, path: str = "data", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = expand(path)

    @cached_property
    def folder(self) -> ImageFolder | None:
        """Class folders at `path`, or None if `path` is the folder of the official files."""
        on_error = "skip" if self.skip_unreadable else "raise"
        return class_folders(self.path, self.official_classes, self.name, split_seed=self.split_seed, on_error=on_error)

    @property
    def name_in_results(self) -> str:
        """Name in results.json. Class folders may contain other images than the official files."""
        return f"{self.name}-folders" if self.folder else self.name

    @property
    def has_validation(self) -> bool:
        return super().has_validation or bool(self.folder and self.folder.folders.get("val"))

    def _files(self) -> list[tuple[Path, str]]:
        files = [*self.official.train_list, *self.official.test_list]
        return [(self.path / self.official.base_folder / name, checksum) for name, checksum in files]

    def download(self) -> None:
        """Unpack the official archive if files are missing. Download the archive if it is missing as well.

        Raises:
            ConfigError: if the archive cannot be downloaded, or if an existing file has a wrong checksum.
        """
        if self.folder or all(file.exists() for file, _ in self._files()):
            return  # the checksums of official files are verified when they are read
        archive, is_new = self.path / self.official.filename, not self.path.exists()
        try:
            fetch(self.official.url, archive, self.official.tgz_md5, field="data.path")
        except ConfigError:
            if is_new and self.path.is_dir() and not [*self.path.iterdir()]:
                self.path.rmdir()
            raise
        extract(archive, self.path, "data.path")

    def load(self, split: Split) -> ImageDataset | None:
        if self.folder:
            return self._from_folder(split)
        if split == "val":
            return None
        files = self._files()
        count = len(self.official.train_list)
        images, labels = [], []
        for file, checksum in files[:count] if split == "train" else files[count:]:
            if not check_integrity(file, checksum):
                missing, wrong = "is missing; put the file there", "has a wrong checksum; delete it to unpack it again"
                state = wrong if file.exists() else missing
                raise ConfigError(f"data.path: {file} {state}")
            with file.open("rb") as stream:
                try:
                    content = _ArrayUnpickler(stream, encoding="latin1").load()
                except (pickle.UnpicklingError, EOFError, ValueError, LookupError, AttributeError) as error:
                    raise ConfigError(
                        f"data.path: {file} contains other objects than arrays ({error}); delete it to unpack it again"
                    ) from error
            images.append(content["data"])
            labels += content[self.labels_key]
        tensor = torch.from_numpy(np.concatenate(images)).view(-1, 3, 32, 32)
        return StoredImages(tensor, torch.tensor(labels))

    def _from_folder(self, split: Split) -> ImageDataset | None:
        images = self.folder.load(split)
        if images is not None:
            counts = torch.bincount(images.labels, minlength=len(self.official_classes))
            if split != "val" and not counts.all():
                empty = self.official_classes[int(counts.argmin())]
                raise ConfigError(f"data.path: the {split} split has no image of the class {empty!r}; add images")
            images.labels = self._labels(images.labels)
        return images

    def _labels(self, classes: Tensor) -> Tensor:
        """Return the labels of the official classes with these numbers."""
        return classes


class CIFAR100(CIFAR10):
    """CIFAR-100: 50,000 training and 10,000 test images of 32x32 pixels in 100 classes, or 20 superclasses.

    Classes are in alphabetical order, like the official labels. `Batch.indices` are defined as for `CIFAR10`.

    Args:
        path: Folder with the official files (`cifar-100-python`), or a folder with one folder of images for each of the
            100 classes, or an archive of such a folder, as for `CIFAR10`. Missing official files are downloaded to this
            folder.
        labels: Labels of the images: the 100 classes (`fine`), or the 20 superclasses of five classes each (`coarse`).
        **kwargs: Arguments of every data set.
    """

    num_classes = 100
    class_names = official_classes = cifar_classes.CIFAR100
    superclasses = cifar_classes.SUPERCLASSES
    name = "cifar100"
    official = datasets.CIFAR100
    labels_key = "fine_labels"

    def __init__(self, *, path: str = "data", labels: Literal["fine", "coarse"] = "fine", **kwargs: Any) -> None:
        super().__init__(path=path, **kwargs)
        self.labels_key = f"{labels}_labels"
        if labels == "coarse":
            self.num_classes, self.class_names, self.name = 20, self.superclasses, "cifar100-coarse"

    def _labels(self, classes: Tensor) -> Tensor:
        if self.num_classes == 100:
            return classes
        return torch.tensor([cifar_classes.SUPERCLASS_OF[name] for name in self.official_classes])[classes]


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler that accepts only numpy arrays in plain containers, as in the official files. It executes no code."""

    _allowed = frozenset({"numpy._reconstruct", "numpy.ndarray", "numpy.dtype", "_codecs.encode"})

    def __init__(self, file: BufferedReader, *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        if f"{module.split('.')[0]}.{name}" in self._allowed:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is not an array")
