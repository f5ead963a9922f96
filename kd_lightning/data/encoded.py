"""Images that loader workers decode on access, or that are all decoded into memory."""

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
from kd_lightning.data.decode import as_tensor, center_square, crop_resized, dimensions, open_rgb
from kd_lightning.data.formats import READS_HEIC, Source, UnreadableError
from kd_lightning.data.images import ImageDataset, StoredImages
from kd_lightning.data.levels import none_readable
from kd_lightning.errors import ConfigError
from kd_lightning.randomness import fold_in
from kd_lightning.words import counted


class EncodedImages(ImageDataset):
    """Images in files, or in a table of encoded files, resized to one size when decoded.

    Args:
        sources: List of N paths, or an object that returns the path or the content of a file by row. The object must
            have `fingerprint()`, `names`, `unusable()` and `subset(rows)`.
        labels: Labels N int64.
        size: Side of the images in pixels. The shorter side is resized to this number of pixels (bicubic), and the
            centre is cropped. With None, images are not resized, and all must have the size of the first image.
        indices: Positions of the samples in their dataset, N int64. Default: 0 to N - 1.
        crop_ratio: Share of the resized side that is kept. 0.875 crops 256 pixels to 224.
        skip_unreadable: Whether unreadable images are skipped with a warning. If false, they raise an error.
        official_side: Side in pixels that all images of a published data set have. It replaces `size`.

    Raises:
        ConfigError: if the size or the ratio is out of range, or if an image cannot be read or has another size.
    """

    crop: RandomResizedCrop | None = None
    views = 1
    num_without_content = 0
    """Number of files that `with_content` has already skipped, and that are no longer among the images."""

    def __init__(
        self,
        sources: Sequence[Source],
        labels: Tensor,
        size: int | None,
        indices: Tensor | None = None,
        *,
        crop_ratio: float = 1.0,
        skip_unreadable: bool = False,
        official_side: int | None = None,
    ) -> None:
        super().__init__(labels, indices)
        if size is not None and size < 1:
            raise ConfigError(f"data.size: {size} is not positive")
        if size is not None and size > LARGEST_SIDE:
            raise ConfigError(f"data.size: {size} is more than {LARGEST_SIDE} pixels")
        if not 0 < crop_ratio <= 1:
            raise ConfigError(f"data.crop_ratio: {crop_ratio} is not a number above 0 and up to 1")
        self.sources, self.size, self.crop_ratio, self.skip_unreadable = sources, size, crop_ratio, skip_unreadable
        self.unreadable = torch.zeros(len(labels), dtype=torch.bool).share_memory_()  # workers write into it
        self.official_side = official_side
        side = size or official_side
        self.shape = (side, side) if side else self._first_shape()

    def _first_shape(self) -> tuple[int, int]:
        for row in range(len(self)):
            try:
                width, height = dimensions(self.sources[row])
            except UnreadableError as error:
                reason = str(error)  # reported when it is decoded
                continue
            return height, width
        raise none_readable(self.sources, len(self), reason)

    def with_content(self) -> Self:
        """Return the images whose files have content. The content of the files is not read.

        Raises:
            ConfigError: for a file that is missing, empty or not a regular file, unless unreadable images are skipped.
        """
        for row in self.sources.unusable():
            self._attempt(row, dimensions)  # names the file; `stored` or `num_skipped` counts it later
        if not self.unreadable.any():
            return self
        part = self._readable(self)
        part.num_without_content = len(self) - len(part)
        return part

    @property
    def num_skipped(self) -> int:
        """Number of images that could not be read until now."""
        return self.num_without_content + int(self.unreadable.sum())

    def _readable(self, images: ImageDataset) -> Any:
        """Return the readable images of a set, which is this one, or has the same images after decoding."""
        if self.unreadable.all():
            raise none_readable(self.sources, len(self), "all are unreadable")
        return images.subset((~self.unreadable).nonzero()[:, 0])

    def _gather(self, rows: Tensor, batch: Batch) -> Batch:
        if self.crop is None:
            decoded = [self._attempt(row, partial(self._middle, row)) for row in rows.tolist()]
        else:
            sizes = torch.tensor([self._attempt(row, dimensions) or (1, 1) for row in rows.tolist()])
            keys = torch.stack([fold_in(view_keys(batch.keys, view), 0) for view in range(self.views)])
            boxes = self.crop.boxes(keys, sizes[:, 1], sizes[:, 0]).transpose(0, 1)
            crops = [
                partial(self._crops, box, full_size)
                for box, full_size in zip(boxes.tolist(), sizes.tolist(), strict=True)
            ]
            decoded = [self._attempt(row, crop) for row, crop in zip(rows.tolist(), crops, strict=True)]
        if any(views is None for views in decoded):
            readable = [place for place, views in enumerate(decoded) if views is not None]
            if not readable:
                raise ConfigError(
                    f"data.on_error: no image of a batch of {len(rows)} can be read; repair or remove these images"
                )
            labels, indices, keys = (each[readable] for each in (batch.labels, batch.indices, batch.keys))
            batch = Batch(batch.images, labels, indices, keys, places=batch.places[readable])
        first, *others = torch.stack([views for views in decoded if views is not None]).unbind(1)
        return batch._replace(images=first, views=tuple(others))

    def _attempt(self, row: int, work: Callable[[Source], Any]) -> Any:
        """Return the result of `work` for an image, or None if the image is unreadable and therefore skipped."""
        try:
            return work(self.sources[row])
        except UnreadableError as error:
            name = self.sources.names[row]
            if not self.skip_unreadable:
                raise ConfigError(
                    f"data.path: {name} cannot be read as an image ({error}); repair or remove it, or set "
                    "data.on_error to skip"
                ) from error
            if not self.unreadable[row]:
                self.unreadable[row] = True
                rank_zero_warn(f"data.on_error: {name} cannot be read as an image and is skipped ({error})")
            return None

    def _middle(self, row: int, source: Source) -> Tensor:
        """Return the centre of the image in a row as a tensor 1,3,H,W."""
        if self.size:
            return as_tensor(center_square(source, self.size, self.crop_ratio))[None]
        image = open_rgb(source)
        if (image.height, image.width) != self.shape:
            facts = f"{self.sources.names[row]} has {image.width}x{image.height}"
            if side := self.official_side:
                raise ConfigError(f"data.path: {facts} pixels; give images of {side}x{side} pixels")
            first = f"{self.shape[1]}x{self.shape[0]}"
            raise ConfigError(f"data.size: {facts} pixels, but the first has {first}; set data.size to resize all")
        return as_tensor(image)[None]

    def _crops(self, boxes: list[list[float]], full_size: tuple[int, int], source: Source) -> Tensor:
        """Return one crop for each of the V boxes of an image with the size `full_size`: V,3,S,S."""
        side = self.crop.size or self.side
        return torch.stack([as_tensor(crop_resized(source, side, box, full_size, self.crop.resample)) for box in boxes])

    def cropped(self, crop: RandomResizedCrop, views: int) -> Self:
        """Return the same images, but with random crops at full resolution instead of the crop of the centre."""
        cropped_images = copy(self)
        cropped_images.crop, cropped_images.views = crop, views
        return cropped_images

    @cached_property
    def resized(self) -> bool:
        """Whether images are resized when they are decoded. This is tested on 32 images from all parts of the set."""
        if self.size is None:
            return False
        for row in torch.linspace(0, len(self) - 1, min(32, len(self))).long().tolist():
            with suppress(UnreadableError):
                if dimensions(self.sources[row]) != (self.size, self.size):
                    return True
        return False

    def subset(self, rows: Tensor) -> Self:
        part = copy(self)
        part.num_without_content = 0
        part.sources, part.labels, part.indices = self.sources.subset(rows), self.labels[rows], self.indices[rows]
        part.unreadable = self.unreadable[rows].share_memory_()
        return part

    def bytes(self) -> int:
        """Return the number of bytes of memory that all decoded images need."""
        return len(self) * 3 * self.shape[0] * self.shape[1]

    def stored(self, name: str) -> StoredImages:
        """Decode all images with several threads into one array, which is cached on disk.

        Raises:
            ConfigError: if an image is unreadable and unreadable images are not skipped.
        """
        facts = f"{self.sources.fingerprint()} {self.size} {self.crop_ratio} {cache.VERSION}{' heic' * READS_HEIC}"
        array, bad, origin = cache.decoded(
            f"{name}-{sha256(facts.encode()).hexdigest()[:20]}", (len(self), 3, *self.shape), self._fill
        )
        self.unreadable |= torch.from_numpy(bad)
        images = StoredImages(torch.from_numpy(array), self.labels, self.indices, self.sources.names)
        images.origin = f"in memory, {origin}"
        if bad.any() and not self.skip_unreadable:  # the cache was created by a run that skips unreadable images
            first = int(bad.argmax())
            self._attempt(first, partial(self._middle, first))
        if not self.num_skipped:
            return images
        readable, rows = self._readable(images), self.unreadable.nonzero()[:, 0].tolist()
        total = counted(self.num_without_content + len(self), "image")
        example = f", e.g. {self.sources.names[rows[0]]}" if rows else ""
        verb = "is" if self.num_skipped == 1 else "are"
        rank_zero_warn(f"data.on_error: {self.num_skipped:,} of {total} {verb} skipped{example}")
        return readable

    def _fill(self, array: np.ndarray) -> np.ndarray:
        """Decode all images into an array N,3,H,W. Return, as N bool, whether each image is unreadable."""

        def decode_rows(start: int) -> None:
            for row in range(start, min(start + 64, len(self))):
                image = self._attempt(row, partial(self._middle, row))
                if image is not None:
                    array[row] = image[0].numpy()

        with ThreadPoolExecutor() as pool:
            for _ in pool.map(decode_rows, range(0, len(self), 64)):
                pass
        return self.unreadable.numpy().copy()

    def paths(self) -> list[str]:
        return [str(name) for name in self.sources.names]
