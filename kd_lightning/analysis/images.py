"""Which images are looked at: some of each class, one class after another."""

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError, check_positive


def some_of_each(data: ImageData, each: int, *, classes: int | None = None, split: str = "test") -> Batch:
    """The first images of each class, not augmented, sorted by class.

    Args:
        data: with labels.
        each: images a class; fewer where a class has fewer.
        classes: how many classes, the first ones; default: all.
        split: `train`, `val` or `test`.

    Raises:
        ConfigError: for images without labels.
    """
    check_positive(each=each)
    data.setup("test" if split == "test" else "fit")
    if not data.labeled:
        raise ConfigError(f"data: {data.name} has no labels to sort by")
    labels = data.datasets[split].labels
    kept = range(data.num_classes if classes is None else min(classes, data.num_classes))
    return data.datasets[split].take(torch.cat([(labels == label).nonzero()[:each, 0] for label in kept]))


def runs_of_classes(labels: Tensor) -> tuple[list[float], list[float], list[int]]:
    """Of sorted labels N: where one class ends and the next begins, each class's middle, and the classes."""
    classes, counts = labels.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    middles = ends - counts / 2
    return (ends[:-1] - 0.5).tolist(), (middles - 0.5).tolist(), classes.tolist()
