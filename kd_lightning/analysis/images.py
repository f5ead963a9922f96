"""Selection of images, sorted by class."""

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError, check_positive


def images_per_class(data: ImageData, count: int, *, classes: int | None = None, split: str = "test") -> Batch:
    """Return the first images of each class, without augmentation, sorted by class.

    Args:
        data: data with labels.
        count: number of images per class; of a class with fewer images, all are returned.
        classes: number of classes, counted from the first; default: all.
        split: `train`, `val` or `test`.

    Raises:
        ConfigError: if the images have no labels.
    """
    check_positive(count=count)
    data.setup("test" if split == "test" else "fit")
    if not data.labeled:
        raise ConfigError(f"data: {data.name} has no labels to sort by; choose data with labels")
    labels = data.datasets[split].labels
    class_range = range(data.num_classes if classes is None else min(classes, data.num_classes))
    return data.datasets[split].take(torch.cat([(labels == label).nonzero()[:count, 0] for label in class_range]))


def class_boundaries(labels: Tensor) -> tuple[list[float], list[float], list[int]]:
    """Return the boundaries between classes in N sorted labels, the middle of each class, and the classes."""
    classes, counts = labels.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    middles = ends - counts / 2
    return (ends[:-1] - 0.5).tolist(), (middles - 0.5).tolist(), classes.tolist()
