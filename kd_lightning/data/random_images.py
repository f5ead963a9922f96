"""RandomImages: images of noise, to measure speed without data."""

from typing import Any

import torch

from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.images import StoredImages
from kd_lightning.errors import check_positive


class RandomImages(ImageData):
    """Images with random pixels in memory, for measuring speed and for trying out a config.

    Args:
        images: Number of training images. The test split has a tenth of this number.
        size: Height and width in pixels.
        classes: Number of classes.
        **kwargs: Arguments of every data set. The default augmentation is a crop after 4 pixels of padding and a flip.
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
        generator = torch.Generator().manual_seed(int(split == "test"))
        shape = (count, 3, self.size, self.size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return StoredImages(images, torch.arange(count) % self.num_classes)
