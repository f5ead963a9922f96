"""Published sets of augmentations by name, for `data.augmentations: moco_v2`."""

from typing import Literal

from kd_lightning.data.augmentations.auto import TimmRandAugment
from kd_lightning.data.augmentations.base import Augmentation
from kd_lightning.data.augmentations.color import ColorJitter, GaussianBlur, RandomGrayscale
from kd_lightning.data.augmentations.erasing import RandomErasing
from kd_lightning.data.augmentations.geometry import HorizontalFlip, RandomCrop, RandomResizedCrop

Preset = Literal["cifar", "imagenet", "moco_v2", "deit"]


def preset(name: Preset) -> list[Augmentation]:
    """Return the augmentations of a published recipe. Crops have the size of the images.

    - cifar: crop after 4 pixels of padding, and flip (He et al. 2016).
    - imagenet: RandomResizedCrop and flip (torchvision's reference training).
    - moco_v2: the augmentations of Chen et al. 2020, in the order of the released code. CoSS is trained with them.
    - deit: the augmentations of Touvron et al. 2021, as in timm's create_transform: bicubic RandomResizedCrop, flip,
      rand-m9-mstd0.5-inc1, and erasing with probability 0.25. DeiT also uses mixup 0.8 and CutMix 1.0 (set them in
      `data.mixing`), and repeated augmentation (set it in `data.repeats`).
    """
    if name == "cifar":
        return [RandomCrop(4), HorizontalFlip()]
    if name == "imagenet":
        return [RandomResizedCrop(), HorizontalFlip()]
    if name == "moco_v2":
        return [
            RandomResizedCrop(scale=(0.2, 1.0)),
            ColorJitter(0.4, 0.4, 0.4, 0.1, probability=0.8),
            RandomGrayscale(0.2),
            GaussianBlur((0.1, 2.0), probability=0.5),
            HorizontalFlip(),
        ]
    return [
        RandomResizedCrop(interpolation="bicubic"),
        HorizontalFlip(),
        TimmRandAugment(),
        RandomErasing(0.25),
    ]
