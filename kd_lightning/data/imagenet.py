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
from kd_lightning.data.files import Files, find_images
from kd_lightning.errors import ConfigError, nearest, one_line

_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


class ImageNet(ImageData):
    """ImageNet-1k: 1,281,167 training images in 1,000 classes.

    The 50,000 official validation images are the test split. The training images are in `train/<wnid>/*.JPEG`. The
    folder `val/` has the same layout, or it is flat, as in the official archive. For a flat `val/`, the labels are read
    from the devkit. Classes are the WordNet ids in alphabetical order, as in timm and torchvision, with timm's names.
    `Batch.indices` count the files in the order of the classes, and then of the names. For a flat `val/`, they count
    the files in the order of the names. The data set must be downloaded manually, because image-net.org requires an
    account.

    Args:
        path: Path of the folder with `train` and `val`, and with `ILSVRC2012_devkit_t12` if `val` is flat.
        size: Side of the networks' input in pixels.
        crop_ratio: Share of the resized side that the crop of the evaluation keeps. 0.875 crops 256 pixels to 224.
        val_split: Share or number of training images for validation. 50,000 images are enough to select an epoch.
        **kwargs: Arguments of every data set. The default augmentation is RandomResizedCrop and a flip.

    Raises:
        ConfigError: if the folder has another layout.
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
        files, _ = find_images(folder)
        if split == "test" and files and "/" not in files[0]:
            labels = self._flat_labels(root, files)
        else:
            wnids = [file.split("/")[0] for file in files]
            unexpected = sorted({*wnids} ^ {*label_of})
            if unexpected:
                raise ConfigError(
                    f"data.path: {folder} has {len({*wnids})} class folders with images, not the 1000 of ImageNet-1k; "
                    f"{unexpected[0]} is {'unknown' if unexpected[0] in wnids else 'missing'} "
                    f"(for a subset use ImageFolder)"
                )
            labels = [label_of[wnid] for wnid in wnids]
        return EncodedImages(
            Files(folder, files),
            torch.tensor(labels),
            self.size,
            crop_ratio=self.crop_ratio,
            skip_unreadable=self.skip_unreadable,
        )

    def _flat_labels(self, root: Path, files: list[str]) -> list[int]:
        """Return the labels of the flat validation images in the order of the file names.

        The ids of the devkit have another order than the classes.
        """
        devkit = root / "ILSVRC2012_devkit_t12"
        for required in (_TRUTH, "data/meta.mat"):
            if not (devkit / required).exists():
                raise ConfigError(
                    f"data.path: {root / 'val'} has no class folders, and its labels are missing, because "
                    f"{devkit / required} does not exist; unpack ILSVRC2012_devkit_t12.tar.gz in "
                    f"{root}, or sort val/ into class folders"
                )
        try:
            synsets = loadmat(devkit / "data/meta.mat", squeeze_me=True)["synsets"]
            wnid_of = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
        except Exception as error:  # scipy raises various errors for invalid files
            reason = one_line(error, 160)
            raise ConfigError(
                f"data.path: {devkit / 'data/meta.mat'} cannot be read ({reason}); unpack the devkit again"
            ) from error
        try:
            identifiers = [int(line) for line in (devkit / _TRUTH).read_text().split()]
        except ValueError as error:
            raise ConfigError(
                f"data.path: {devkit / _TRUTH} must contain one number per line ({error}); unpack the devkit again"
            ) from error
        if len(identifiers) != len(files):
            raise ConfigError(
                f"data.path: {root / 'val'} has {len(files):,} images, but {_TRUTH} has {len(identifiers):,} labels; "
                "unpack both archives again"
            )
        label_of = {wnid: label for label, wnid in enumerate(self.class_ids)}
        unknown = next((wnid_of.get(i, str(i)) for i in identifiers if wnid_of.get(i) not in label_of), None)
        if unknown:
            raise ConfigError(f"data.path: {devkit} names the unknown class {unknown}{nearest(unknown, label_of)}")
        return [label_of[wnid_of[identifier]] for identifier in identifiers]
