"""Image sets: in memory as one uint8 tensor, or decoded from files when asked for; both give whole Batches."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import center_crop, resize

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.randomness import sample_keys


def _epoch_and_rows(places: list[tuple[int, int]] | list[int]) -> tuple[int, Tensor]:
    """An epoch and the rows to gather. Plain rows are epoch 0's: Lightning's overfit_batches brings a plain sampler."""
    if isinstance(places[0], int):
        return 0, torch.tensor(places)
    return places[0][0], torch.tensor([row for _, row in places])


class Images(Protocol):
    """What a data module needs of a set of images."""

    labels: Tensor
    indices: Tensor
    seed: int

    def __len__(self) -> int: ...
    def __getitems__(self, places: list[tuple[int, int]]) -> Batch: ...
    def subset(self, rows: Tensor) -> Self: ...
    def side(self) -> int: ...
    def paths(self) -> list[str]: ...


class StoredImages(Dataset):
    """Images in memory.

    Args:
        images: N,3,H,W uint8.
        labels: N int64.
        indices: N int64, the samples' positions in their dataset; default: 0 to N - 1.
        names: the files that they came from, if any.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, indices: Tensor | None = None, names: list[str] | None = None
    ) -> None:
        self.images, self.labels = images, labels
        self.indices = torch.arange(len(labels)) if indices is None else indices
        self.names, self.seed = names or [], 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, places: list[tuple[int, int]]) -> Batch:
        """The batch at (epoch, row) places, gathered at once."""
        epoch, rows = _epoch_and_rows(places)
        indices = self.indices[rows]
        return Batch(self.images[rows], self.labels[rows], indices, sample_keys(self.seed, epoch, indices))

    def subset(self, rows: Tensor) -> Self:
        names = [self.names[row] for row in rows.tolist()] if self.names else None
        return type(self)(self.images[rows], self.labels[rows], self.indices[rows], names)

    def side(self) -> int:
        return self.images.shape[-1]

    def paths(self) -> list[str]:
        return self.names


class FileImages(Dataset):
    """Images in files, decoded to RGB when asked for, all brought to one size.

    Args:
        files: the images' paths.
        labels: N int64.
        size: side in pixels: the shorter side is resized to it (bicubic), the middle is kept. None: the first
            image's own size, which all must have.
        indices: N int64, the samples' positions in their dataset; default: 0 to N - 1.

    Raises:
        ConfigError: for a file that cannot be read as an image, or one of another size, by name.
    """

    def __init__(self, files: list[Path], labels: Tensor, size: int | None, indices: Tensor | None = None) -> None:
        self.files, self.labels, self.size, self.seed = files, labels, size, 0
        self.indices = torch.arange(len(labels)) if indices is None else indices
        self.shape = (size, size) if size else tuple(self._open(files[0]).shape[-2:])

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, places: list[tuple[int, int]]) -> Batch:
        """The batch at (epoch, row) places."""
        epoch, rows = _epoch_and_rows(places)
        images = torch.stack([self.decode(self.files[row]) for row in rows.tolist()])
        indices = self.indices[rows]
        return Batch(images, self.labels[rows], indices, sample_keys(self.seed, epoch, indices))

    def decode(self, file: Path) -> Tensor:
        """One file as 3,H,W uint8."""
        image = self._open(file)
        if self.size:
            image = center_crop(resize(image, [self.size], interpolation=3, antialias=True), [self.size, self.size])
        elif tuple(image.shape[-2:]) != self.shape:
            raise ConfigError(
                f"data.size: {file} has {image.shape[-1]}x{image.shape[-2]} pixels, {self.files[0].name} "
                f"{self.shape[1]}x{self.shape[0]}; give data.size the side that all shall have"
            )
        return image

    @staticmethod
    def _open(file: Path) -> Tensor:
        try:
            with Image.open(file) as image:
                return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        except (OSError, ValueError, SyntaxError) as error:
            raise ConfigError(f"data.path: {file} cannot be read as an image ({error})") from error

    def subset(self, rows: Tensor) -> Self:
        files = [self.files[row] for row in rows.tolist()]
        return type(self)(files, self.labels[rows], self.size, self.indices[rows])

    def bytes(self) -> int:
        """What all of them take in memory, decoded."""
        return len(self) * 3 * self.shape[0] * self.shape[1]

    def stored(self) -> StoredImages:
        """All of them decoded, by several threads, into one tensor."""
        images = torch.empty((len(self), 3, *self.shape), dtype=torch.uint8)

        def fill(row: int) -> None:
            images[row] = self.decode(self.files[row])

        with ThreadPoolExecutor() as pool:
            list(pool.map(fill, range(len(self))))
        return StoredImages(images, self.labels, self.indices, self.paths())

    def side(self) -> int:
        return self.shape[1]

    def paths(self) -> list[str]:
        return [str(file) for file in self.files]
