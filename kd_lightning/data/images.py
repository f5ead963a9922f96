"""Image sets, which give whole Batches: their common part, and the one that lies in memory as one uint8 tensor."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kd_lightning.batch import Batch
from kd_lightning.data.samplers import Place
from kd_lightning.randomness import fold_in, named_key, sample_keys


class ImageDataset(Dataset):
    """A set of N labelled images.

    Args:
        labels: N int64, -1 where there is no label.
        indices: N int64, the samples' positions in their dataset; default: 0 to N - 1.
    """

    seed = 0
    """Of the samples' keys; the data module's."""
    origin = "in memory"
    """Where the images come from, in words."""

    def __init__(self, labels: Tensor, indices: Tensor | None = None) -> None:
        self.labels = labels
        self.indices = torch.arange(len(labels)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, places: list[Place] | list[int]) -> Batch:
        """The batch at some places, gathered at once. Plain rows, as overfit_batches brings them, are epoch 0's."""
        if isinstance(places[0], int):
            places = [(0, row, 0) for row in places]
        epochs, rows, copies = zip(*places, strict=True)
        rows = torch.tensor(rows)
        indices = self.indices[rows]
        keys = sample_keys(self.seed, epochs[0], indices)
        if any(copies):
            copies = torch.tensor(copies)
            keys = torch.where(copies == 0, keys, fold_in(named_key(keys, "copy"), copies))
        return self._gather(rows, Batch(torch.empty(0), self.labels[rows], indices, keys))

    def take(self, rows: Tensor) -> Batch:
        """Some of the images, by their rows."""
        return self.__getitems__(rows.tolist())

    def _gather(self, rows: Tensor, batch: Batch) -> Batch:
        """The batch with its images."""
        raise NotImplementedError

    def subset(self, rows: Tensor) -> Self:
        """Some of the images, in the order of `rows`."""
        raise NotImplementedError

    @property
    def side(self) -> int:
        """Height and width in pixels as the images reach the augmentations."""
        raise NotImplementedError

    def paths(self) -> list[str]:
        """The files, in order; [] where the images have none of their own."""
        return []


class StoredImages(ImageDataset):
    """Images in memory.

    Args:
        images: M,3,H,W uint8, possibly more than are used.
        labels: N int64.
        indices: N int64, the samples' positions in their dataset; default: 0 to N - 1.
        names: the M files that they came from, if any.
        places: N int64, where in `images` each one lies; default: 0 to N - 1.
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
        self.images, self.names = images, names
        self.places = torch.arange(len(labels)) if places is None else places

    def _gather(self, rows: Tensor, batch: Batch) -> Batch:
        places = self.places[rows].to(self.images.device, non_blocking=True)
        return batch._replace(images=self.images.index_select(0, places))

    def subset(self, rows: Tensor) -> Self:
        some = type(self)(self.images, self.labels[rows], self.indices[rows], self.names, self.places[rows])
        some.seed, some.origin = self.seed, self.origin
        return some

    def resident(self, device: torch.device) -> Self:
        """The same on a device, where whole batches are gathered, if they take no more than half of what is free."""
        needed = len(self) * self.images[0].numel()
        if device.type != "cuda" or needed > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        moved = type(self)(self.images[self.places].to(device), self.labels, self.indices)
        moved.seed, moved.origin = self.seed, f"on {device}"
        return moved

    @property
    def side(self) -> int:
        return self.images.shape[-1]

    def paths(self) -> list[str]:
        return [] if self.names is None else [str(self.names[place]) for place in self.places.tolist()]
