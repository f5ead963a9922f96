"""ImageNet-1k (ILSVRC 2012) in its official layout."""

from pathlib import Path
from typing import Any

import torch
from scipy.io import loadmat
from timm.data import ImageNetInfo

from kd_lightning.data.archives import folder_at
from kd_lightning.data.augmentations import Augmentation, preset
from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.files import Files, find
from kd_lightning.errors import ConfigError, nearest, one_line

_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


class ImageNet(ImageData):
    """ImageNet-1k: 1,281,167 training images in 1,000 classes; the official 50,000 validation images are the test.

    `train/<wnid>/*.JPEG`, and `val/` either sorted likewise or flat, as in the official archive, with the devkit's
    labels. Classes are the WordNet ids in alphabetical order, which is timm's and torchvision's, named as timm names
    them; `Batch.indices` counts the files in order of class, then name (a flat `val`: in order of name). It has to be
    downloaded by hand (image-net.org asks for an account).

    Args:
        path: folder with `train` and `val`, and for a flat `val` with `ILSVRC2012_devkit_t12`.
        size: side in pixels of the images that reach the networks.
        crop_ratio: share of the resized side that evaluation keeps: 256 pixels are cut to 224.
        val_split: as for every data set; 50,000 training images are enough to choose an epoch by.
        **kwargs: as for every data set; the customary augmentation is RandomResizedCrop and the flip.

    Raises:
        ConfigError: for a folder that is not of that layout.
    """

    num_classes = 1000
    class_names: list[str] = []
    name = "imagenet"

    def __init__(
        self,
        *,
        path: str = "data/imagenet",
        size: int = 224,
        crop_ratio: float = 0.875,
        val_split: float = 50_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(val_split=val_split, **kwargs)
        self.path, self.size, self.crop_ratio = path, size, crop_ratio
        info = ImageNetInfo("imagenet-1k")
        self.class_ids = info.label_names()
        self.class_names = [info.index_to_description(place).split(",")[0] for place in range(self.num_classes)]

    def default_augmentations(self) -> list[Augmentation]:
        return preset("imagenet")

    def load(self, split: Split) -> EncodedImages | None:
        if split == "val":
            return None
        root = folder_at(self.path)
        folder = root / ("train" if split == "train" else "val")
        if not folder.is_dir():
            raise ConfigError(f"data.path: {root} is not ImageNet's folder: it has no {folder.name}/")
        label_of = {wnid: label for label, wnid in enumerate(self.class_ids)}
        files, _ = find(folder)
        if split == "test" and files and "/" not in files[0]:
            labels = self._flat_labels(root, files)
        else:
            wnids = [file.split("/")[0] for file in files]
            odd = sorted({*wnids} ^ {*label_of})
            if odd:
                raise ConfigError(
                    f"data.path: {folder} has {len({*wnids})} class folders with images, not the 1000 of ImageNet-1k; "
                    f"{odd[0]} is {'unknown' if odd[0] in wnids else 'missing'} (a part of it: ImageFolder)"
                )
            labels = [label_of[wnid] for wnid in wnids]
        return EncodedImages(
            Files(folder, files), torch.tensor(labels), self.size, crop_ratio=self.crop_ratio, skips=self.skips
        )

    def _flat_labels(self, root: Path, files: list[str]) -> list[int]:
        """Labels of the flat validation images in order of name: the devkit's ids, which count in another order."""
        devkit = root / "ILSVRC2012_devkit_t12"
        for needed in (_TRUTH, "data/meta.mat"):
            if not (devkit / needed).exists():
                raise ConfigError(
                    f"data.path: {root / 'val'} is flat, and its labels are missing: there is no {devkit / needed}; "
                    f"unpack ILSVRC2012_devkit_t12.tar.gz in {root}, or sort val/ into class folders"
                )
        try:
            synsets = loadmat(devkit / "data/meta.mat", squeeze_me=True)["synsets"]
            wnid_of = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
        except Exception as error:  # scipy fails in many ways of a file that is none
            reason = one_line(error, 160)
            raise ConfigError(f"data.path: {devkit / 'data/meta.mat'} cannot be read ({reason})") from error
        try:
            identifiers = [int(line) for line in (devkit / _TRUTH).read_text().split()]
        except ValueError as error:
            raise ConfigError(f"data.path: {devkit / _TRUTH} is to hold a number a line ({error})") from error
        if len(identifiers) != len(files):
            raise ConfigError(
                f"data.path: {root / 'val'} holds {len(files):,} images, {_TRUTH} {len(identifiers):,} labels"
            )
        label_of = {wnid: label for label, wnid in enumerate(self.class_ids)}
        unknown = next((wnid_of.get(i, str(i)) for i in identifiers if wnid_of.get(i) not in label_of), None)
        if unknown:
            raise ConfigError(f"data.path: {devkit} names the class {unknown}{nearest(unknown, label_of)}")
        return [label_of[wnid_of[identifier]] for identifier in identifiers]
