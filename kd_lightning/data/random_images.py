"""RandomImages: noise, for measuring speed where no data are needed."""

from typing import Any

import torch

from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.images import StoredImages
from kd_lightning.errors import check_positive


class RandomImages(ImageData):
    """Images of random pixels with random labels, in memory: for measuring speed, and for trying a config out.

    Args:
        images: how many there are for training; for testing, a tenth of that.
        size: height and width in pixels.
        classes: how many classes the labels are drawn from.
        **kwargs: as for every data set; the customary augmentation is the crop and the flip of small photographs.
    """

    name = "random"

    def __init__(self, *, images: int = 50_000, size: int = 32, classes: int = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(**{"data.images": images, "data.size": size, "data.classes": classes})
        self.images, self.size, self.num_classes = images, size, classes
        self.class_names = [f"random {number}" for number in range(classes)]

    def load(self, split: Split) -> StoredImages | None:
        if split == "val":
            return None
        count = self.images if split == "train" else max(1, self.images // 10)
        drawn = torch.Generator().manual_seed(int(split == "test"))
        shape = (count, 3, self.size, self.size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=drawn)
        return StoredImages(images, torch.arange(count) % self.num_classes)
