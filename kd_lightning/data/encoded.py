"""Images that are decoded when asked for, by loader workers, or once and for all into memory."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from functools import cached_property, partial
from hashlib import sha256
from typing import Any, Self

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kd_lightning.batch import LARGEST_SIDE, Batch
from kd_lightning.data import cache
from kd_lightning.data.augmentations import RandomResizedCrop, view_keys
from kd_lightning.data.decode import (
    Source,
    UnreadableError,
    as_tensor,
    center_square,
    crop_resized,
    dimensions,
    open_rgb,
)
from kd_lightning.data.images import ImageDataset, StoredImages
from kd_lightning.errors import ConfigError
from kd_lightning.randomness import fold_in


class EncodedImages(ImageDataset):
    """Images in files, or in a table that holds files, brought to one size when decoded.

    Args:
        sources: N paths, or whatever gives a path or a file's content by row, with `fingerprint()`, `names` and
            `subset(rows)`.
        labels: N int64.
        size: side in pixels: the shorter side is resized to it (bicubic), the middle is kept. None: the first
            image's own size, which all must have.
        indices: N int64, the samples' positions in their dataset; default: 0 to N - 1.
        crop_ratio: what share of the resized side is kept, as 0.875 where 256 pixels are cut to 224.
        skips: whether an image that cannot be read is left out with a warning, and not the end of the run.

    Raises:
        ConfigError: for a size or ratio out of range; by name, for an image that cannot be read or has another size.
    """

    crop: RandomResizedCrop | None = None
    views = 1

    def __init__(
        self,
        sources: Sequence[Source],
        labels: Tensor,
        size: int | None,
        indices: Tensor | None = None,
        *,
        crop_ratio: float = 1.0,
        skips: bool = False,
    ) -> None:
        super().__init__(labels, indices)
        if size is not None and size < 1:
            raise ConfigError(f"data.size: {size} is not positive")
        if size is not None and size > LARGEST_SIDE:
            raise ConfigError(f"data.size: {size} is more than {LARGEST_SIDE} pixels")
        if not 0 < crop_ratio <= 1:
            raise ConfigError(f"data.crop_ratio: {crop_ratio} is not above 0 and up to 1")
        self.sources, self.size, self.crop_ratio, self.skips = sources, size, crop_ratio, skips
        self.unreadable = torch.zeros(len(labels), dtype=torch.bool).share_memory_()  # workers write into it
        self.shape = (size, size) if size else self._first_shape()

    def _first_shape(self) -> tuple[int, int]:
        for row in range(len(self)):
            try:
                width, height = dimensions(self.sources[row])
            except UnreadableError:
                continue  # reported when it is decoded
            return height, width
        raise ConfigError(f"data.path: none of its {len(self):,} images can be read, {self.sources.names[0]} for one")

    def _gather(self, rows: Tensor, batch: Batch) -> Batch:
        if self.crop is None:
            decoded = [self._attempt(row, self._middle) for row in rows.tolist()]
        else:
            sizes = torch.tensor([self._attempt(row, dimensions) or (1, 1) for row in rows.tolist()])
            keys = torch.stack([fold_in(view_keys(batch.keys, view), 0) for view in range(self.views)])
            boxes = self.crop.boxes(keys, sizes[:, 1], sizes[:, 0]).transpose(0, 1)
            crops = [partial(self._crops, box, full) for box, full in zip(boxes.tolist(), sizes.tolist(), strict=True)]
            decoded = [self._attempt(row, crop) for row, crop in zip(rows.tolist(), crops, strict=True)]
        if any(views is None for views in decoded):
            kept = [place for place, views in enumerate(decoded) if views is not None]
            if not kept:
                raise ConfigError(f"data.on_error: none of the {len(rows)} images of a batch can be read")
            batch = Batch(batch.images, batch.labels[kept], batch.indices[kept], batch.keys[kept])
        first, *others = torch.stack([views for views in decoded if views is not None]).unbind(1)
        return batch._replace(images=first, views=tuple(others))

    def _attempt(self, row: int, work: Callable[[Source], Any]) -> Any:
        """What the work makes of an image; None for one that is unreadable and skipped."""
        try:
            return work(self.sources[row])
        except UnreadableError as error:
            name = self.sources.names[row]
            if not self.skips:
                raise ConfigError(f"data.path: {name} cannot be read as an image ({error})") from error
            if not self.unreadable[row]:
                self.unreadable[row] = True
                rank_zero_warn(f"data.on_error: {name} is skipped, it cannot be read as an image ({error})")
            return None

    def _middle(self, source: Source) -> Tensor:
        """1,3,H,W."""
        if self.size:
            return as_tensor(center_square(source, self.size, self.crop_ratio))[None]
        image = open_rgb(source)
        if (image.height, image.width) != self.shape:
            raise ConfigError(
                f"data.size: {source if isinstance(source, os.PathLike) else 'an image'} has {image.width}x"
                f"{image.height} pixels, the first image {self.shape[1]}x{self.shape[0]}; give data.size the side "
                "that all shall have"
            )
        return as_tensor(image)[None]

    def _crops(self, boxes: list[list[float]], full: tuple[int, int], source: Source) -> Tensor:
        """V,3,S,S: one for each box of an image of a full size."""
        side = self.crop.size or self.side
        return torch.stack([as_tensor(crop_resized(source, side, box, full, self.crop.resample)) for box in boxes])

    def cropped(self, crop: RandomResizedCrop, views: int) -> Self:
        """The same images, of which random crops are cut out of the files' own pixels, and not their middle."""
        same = copy(self)
        same.crop, same.views = crop, views
        return same

    @cached_property
    def resized(self) -> bool:
        """Whether images are resized when decoded: some of 32 spread over the set are not of the side that they get."""
        if self.size is None:
            return False
        for row in torch.linspace(0, len(self) - 1, min(32, len(self))).long().tolist():
            with suppress(UnreadableError):
                if dimensions(self.sources[row]) != (self.size, self.size):
                    return True
        return False

    def subset(self, rows: Tensor) -> Self:
        some = type(self)(
            self.sources.subset(rows),
            self.labels[rows],
            self.size,
            self.indices[rows],
            crop_ratio=self.crop_ratio,
            skips=self.skips,
        )
        some.seed, some.origin = self.seed, self.origin
        return some

    def bytes(self) -> int:
        """What all of them take in memory, decoded."""
        return len(self) * 3 * self.shape[0] * self.shape[1]

    def stored(self, name: str) -> StoredImages:
        """All of them decoded by several threads into one array, which is kept on disk under a name for the next time.

        Raises:
            ConfigError: for an image that cannot be read, unless such are skipped; then they are missing.
        """
        facts = f"{self.sources.fingerprint()} {self.size} {self.crop_ratio} {cache.VERSION}"
        array, bad, origin = cache.decoded(
            f"{name}-{sha256(facts.encode()).hexdigest()[:20]}", (len(self), 3, *self.shape), self._fill
        )
        self.unreadable |= torch.from_numpy(bad)
        images = StoredImages(torch.from_numpy(array), self.labels, self.indices, self.sources.names)
        images.origin = f"in memory, {origin}"
        if bad.any():
            first = int(bad.argmax())
            if not self.skips:  # a run that skipped has made this cache
                self._attempt(first, self._middle)
            count, name = int(bad.sum()), self.sources.names[first]
            rank_zero_warn(f"data.on_error: {count:,} of {len(self):,} images are left out, {name} for one")
            images = images.subset((~self.unreadable).nonzero()[:, 0])
        return images

    def _fill(self, array: np.ndarray) -> np.ndarray:
        """Decodes everything into an array N,3,H,W; gives N bool: which could not be read."""

        def some(start: int) -> None:
            for row in range(start, min(start + 64, len(self))):
                image = self._attempt(row, self._middle)
                if image is not None:
                    array[row] = image[0].numpy()

        with ThreadPoolExecutor() as pool:
            for _ in pool.map(some, range(0, len(self), 64)):
                pass
        return self.unreadable.numpy().copy()

    @property
    def side(self) -> int:
        return self.shape[1]

    def paths(self) -> list[str]:
        return [str(name) for name in self.sources.names]
