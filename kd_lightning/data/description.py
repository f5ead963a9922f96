"""Descriptions of images and augmentations, by which changed ones are recognised without reading any image file."""

import os
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from torch import Tensor

from kd_lightning.data.files import Files
from kd_lightning.data.images import ImageDataset, StoredImages
from kd_lightning.data.neighbors import data_fingerprint

_MOST_FILES = 10_000
"""Number of files of a split whose sizes are read."""


def describe_split(images: ImageDataset) -> dict[str, Any]:
    """Return the number of images, and hashes of their labels, names, file sizes and pixels, as far as they exist.

    No image file is read. At most 10,000 files contribute their sizes. For images in memory, up to 256 images
    contribute their pixels.
    """
    described: dict[str, Any] = {"images": len(images), "labels": sha256(images.labels.numpy().tobytes()).hexdigest()}
    if isinstance(images, StoredImages):
        described["pixels"] = data_fingerprint(images)
        names = images.names
        names = names.subset(images.places) if isinstance(names, Files) else names and images.paths()
    else:
        names = images.sources.names
    if isinstance(names, Files):
        described["names"] = sha256(b"\n".join(names.relative.tolist())).hexdigest()
        rows = np.linspace(0, len(names) - 1, min(len(names), _MOST_FILES)).astype(int)
        sizes = [_size(os.path.join(os.fsencode(names.root), names.relative[row])) for row in rows]
        described["sizes"] = sha256(repr(sizes).encode()).hexdigest()
    elif names:
        described["names"] = sha256("\n".join(map(str, names)).encode("utf-8", "replace")).hexdigest()
    return described


def _size(path: bytes) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def describe_training(data: Any) -> dict[str, Any]:
    """Return what the augmented training images of each epoch depend on, by the names of the fields of a config.

    The values can be written as JSON. The code of an augmentation is not described, only its class and its attributes.

    Args:
        data: Data of the run, after `setup`.
    """
    images = data.datasets["train"]
    described = {
        "data": [data.name, describe_split(images), sha256(images.indices.numpy().tobytes()).hexdigest()],
        "data.size": [*images.shape],
        "data.seed": data.seed,
        "data.augmentations": plain(data.train_transforms),
        "data.view_augmentations": plain(data.view_augmentations),
        "data.views": data.views,
        "data.repeats": data.repeats,
        "data.augmentation_epochs": data.augmentation_epochs,
        "data.mixing": plain(data.mixing),
    }
    if data.repeats_order:
        described |= {"data.batch_size": data.batch_size, "trainer.devices": data.world}
    return described


def plain(value: Any) -> Any:
    """Return a value as numbers, texts, lists and dicts. An object becomes a dict of its class and its attributes."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray | Tensor):
        return value.tolist()
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    return {"class": type(value).__qualname__, **plain(getattr(value, "__dict__", {}))}
