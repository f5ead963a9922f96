"""Tiny-ImageNet (Stanford CS231n): 200 classes of ImageNet with 64x64 pixels."""

from pathlib import Path
from typing import Any

import torch

from kd_lightning.data.archives import folder_at
from kd_lightning.data.augmentations import Augmentation, HorizontalFlip, RandomCrop
from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.downloads import fetch
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.files import Files, find_images
from kd_lightning.errors import ConfigError, one_line
from kd_lightning.io.paths import expand, read_text, resolve

_ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_CHECKSUM = "90528d7ca1a48142e341f4ef8d21d0de"
_REMEDY = "unpack the official archive again"


class TinyImageNet(ImageData):
    """Tiny-ImageNet: 200 classes with 100,000 training and 10,000 labelled validation images of 64x64 pixels.

    The official validation images are the test split, because the official test images have no labels. Some training
    images are held out for validation. Classes are the WordNet ids in alphabetical order. The name of a class is the
    first word that belongs to its id. `Batch.indices` count the files in the order of the classes, and then of the
    names.

    Args:
        path: Path of the official folder `tiny-imagenet-200`, or of an archive of this folder. If the path does not
            exist, the official zip is downloaded to the parent folder, and its checksum is verified. `~` and
            environment variables are expanded.
        **kwargs: Arguments of every data set. The default augmentation is a crop after 8 pixels of padding and a flip.

    Raises:
        ConfigError: if the folder does not have the official layout.
    """

    num_classes = 200
    class_names: list[str] = []
    name = "tiny-imagenet"
    official_side = 64

    def __init__(self, *, path: str = "data/tiny-imagenet-200", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    def default_augmentations(self) -> list[Augmentation]:
        return [RandomCrop(8), HorizontalFlip()]

    def _zip(self) -> Path:
        """Return the path of the official zip, in the parent folder of `path`."""
        return expand(self.path).parent / Path(_ADDRESS).name

    def download(self) -> None:
        """Download the official zip if `path` does not exist.

        Raises:
            ConfigError: if the zip cannot be downloaded.
        """
        try:
            resolve(self.path, "data.path")
        except ConfigError:
            if "$" in str(self._zip()):
                raise
            fetch(_ADDRESS, self._zip(), _CHECKSUM, field="data.path")

    def _folder(self) -> Path:
        """Return the official folder, after reading its classes."""
        from_zip = not expand(self.path).exists() and self._zip().exists()
        folder = folder_at(str(self._zip()) if from_zip else self.path)
        for required in ("wnids.txt", "words.txt", "train", "val/images", "val/val_annotations.txt"):
            if not (folder / required).exists():
                raise ConfigError(f"data.path: {folder} is not Tiny-ImageNet's folder: it has no {required}")
        self.class_ids = sorted(_lines(folder / "wnids.txt"))
        words = dict(line.split("\t", 1) for line in _lines(folder / "words.txt") if "\t" in line)
        self.class_names = [words.get(wnid, wnid).split(",")[0] for wnid in self.class_ids]
        if len(self.class_ids) != self.num_classes:
            raise ConfigError(f"data.path: {folder / 'wnids.txt'} lists {len(self.class_ids)} classes, not 200")
        return folder

    def load(self, split: Split) -> EncodedImages | None:
        if split == "val":
            return None
        folder = self._folder()
        label_of = {wnid: label for label, wnid in enumerate(self.class_ids)}
        if split == "train":
            files, _ = find_images(folder / "train")
            labelled = [(label_of[wnid], f"train/{f}") for f in files if (wnid := f.split("/")[0]) in label_of]
        else:
            annotations = folder / "val" / "val_annotations.txt"
            labelled = []
            for number, line in enumerate(_lines(annotations), 1):
                name, wnid, *_ = [*line.split("\t"), ""]
                if wnid not in label_of or Path(name).name != name:
                    raise ConfigError(
                        f"data.path: {annotations}, line {number}: {line[:80]!r} is not the name of an image in "
                        f"val/images with the id of a class; {_REMEDY}"
                    )
                labelled.append((label_of[wnid], f"val/images/{name}"))
        if not labelled:
            raise ConfigError(f"data.path: {folder} contains no {split} images")
        labels, files = zip(*sorted(labelled), strict=True)
        return EncodedImages(
            Files(folder, files),
            torch.tensor(labels),
            None,
            skip_unreadable=self.skip_unreadable,
            official_side=self.official_side,
        )


def _lines(file: Path) -> list[str]:
    try:
        return read_text(file).splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"data.path: {file} cannot be read as text ({one_line(error)}); {_REMEDY}") from error
