"""Digits: a data set that needs no download."""

from functools import cache
from typing import Any

import torch

from kd_lightning.data.augmentations import Augmentation, RandomCrop
from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.images import StoredImages


class Digits(ImageData):
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, as RGB with three equal channels. Class k is the digit k.

    A fixed set of 360 images, stratified by class, is the test split. `Batch.indices` follow scikit-learn's order.

    Args:
        **kwargs: Arguments of every data set. The default augmentation is a crop after 1 pixel of padding, without a
            flip.
    """

    num_classes = 10
    class_names = [str(digit) for digit in range(10)]
    name = "digits"
    official_side = 8

    def load(self, split: Split) -> StoredImages | None:
        if split == "val":
            return None
        from sklearn.model_selection import train_test_split  # takes a second

        digits = _read()
        images = torch.from_numpy(digits.images * (255 / 16)).round().to(torch.uint8)
        labels = torch.from_numpy(digits.target).long()
        train, test = train_test_split(range(len(labels)), test_size=360, random_state=0, stratify=digits.target)
        rows = torch.tensor(sorted(train if split == "train" else test))
        return StoredImages(images[:, None].repeat(1, 3, 1, 1), labels).subset(rows)

    def default_augmentations(self) -> list[Augmentation]:
        return [RandomCrop(1)]


@cache
def _read() -> Any:
    """Return scikit-learn's arrays, which are read once per process. The caller must not change them."""
    from sklearn.datasets import load_digits

    return load_digits()
