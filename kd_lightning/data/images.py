"""Datasets that return complete batches: a base class, and a class for images in memory as one uint8 tensor."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kd_lightning.batch import Batch
from kd_lightning.data.samplers import Place
from kd_lightning.randomness import fold_in, named_key, sample_keys


class ImageDataset(Dataset):
    """A set of N labelled images.

    Args:
        labels: Labels N int64, -1 for images without a label.
        indices: Positions of the samples in their dataset, N int64. Default: 0 to N - 1.
    """

    seed = 0
    """Seed of the samples' keys, set by the data module."""
    origin = "in memory"
    """Text about the storage of the images, such as `from the disk cache`."""
    shape: tuple[int, int]
    """Height and width of the images in pixels."""

    def __init__(self, labels: Tensor, indices: Tensor | None = None) -> None:
        self.labels = labels
        self.indices = torch.arange(len(labels)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, places: list[Place] | list[int]) -> Batch:
        """Return the batch for some places, or for rows without an epoch (from overfit_batches), which get epoch 0."""
        if isinstance(places[0], int):
            places = [(0, row, 0) for row in places]
        epochs, rows, copies = zip(*places, strict=True)
        rows = torch.tensor(rows)
        indices = self.indices[rows]
        keys = sample_keys(self.seed, epochs[0], indices)
        if any(copies):
            copies = torch.tensor(copies)
            keys = torch.where(copies == 0, keys, fold_in(named_key(keys, "copy"), copies))
        batch = Batch(torch.empty(0), self.labels[rows], indices, keys, places=np.array(places, dtype=np.int64))
        return self._gather(rows, batch)

    def take(self, rows: Tensor) -> Batch:
        """Return the images in `rows` as a batch."""
        return self.__getitems__(rows.tolist())

    def _gather(self, rows: Tensor, batch: Batch) -> Batch:
        """Read the images in `rows`, and return the batch with these images."""
        raise NotImplementedError

    def subset(self, rows: Tensor) -> Self:
        """Return the images in `rows` as a dataset, in this order."""
        raise NotImplementedError

    @property
    def side(self) -> int:
        """Height and width in pixels of the augmentations' input."""
        return self.shape[1]

    def paths(self) -> list[str]:
        """Return the files of the images, in order, or [] if the images have no files."""
        return []


class StoredImages(ImageDataset):
    """Images in memory.

    Args:
        images: Images M,3,H,W uint8. M may be larger than the number of samples N.
        labels: Labels N int64.
        indices: Positions of the samples in their dataset, N int64. Default: 0 to N - 1.
        names: Names of the M files of the images, if there are files.
        places: Positions of the samples in `images`, N int64. Default: 0 to N - 1.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor | None = None,
        names: Sequence[Any] | None = None,
        places: Tensor | None = None,
    ) -> None:
        super().__init__(labels, indices)
        self.images, self.names, self.shape = images, names, (images.shape[-2], images.shape[-1])
        self.places = torch.arange(len(labels)) if places is None else places

    def _gather(self, rows: Tensor, batch: Batch) -> Batch:
        places = self.places[rows].to(self.images.device, non_blocking=True)
        return batch._replace(images=self.images.index_select(0, places))

    def subset(self, rows: Tensor) -> Self:
        part = type(self)(self.images, self.labels[rows], self.indices[rows], self.names, self.places[rows])
        part.seed, part.origin = self.seed, self.origin
        return part

    def resident(self, device: torch.device) -> Self:
        """Return the images on a GPU if they need at most half of its free memory. Otherwise return them unchanged."""
        needed = len(self) * self.images[0].numel()
        if device.type != "cuda" or needed > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        on_device = type(self)(self.images[self.places].to(device), self.labels, self.indices)
        on_device.seed, on_device.origin = self.seed, f"on {device}"
        return on_device

    def paths(self) -> list[str]:
        return [] if self.names is None else [str(self.names[place]) for place in self.places.tolist()]
