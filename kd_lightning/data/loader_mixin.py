"""LoaderMixin: loaders for the splits of a data set, augmentation on the device, and resuming within an epoch."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from kd_lightning.batch import Batch
from kd_lightning.data.augmentations import Augmentation, augment, view_keys
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.images import ImageDataset, StoredImages
from kd_lightning.data.loader import ImageLoader, cores, identity_collate
from kd_lightning.data.neighbors import Neighbors
from kd_lightning.data.samplers import EpochSampler, NeighborSampler
from kd_lightning.errors import ConfigError
from kd_lightning.mixing import Mixing
from kd_lightning.randomness import permutation
from kd_lightning.words import counted, images_of

_SPARE = 16
"""Number of additional images that are read if some may be unreadable and skipped."""


class LoaderMixin(LightningDataModule):
    """Loaders and augmentation for `ImageData`, which defines the splits and the arguments."""

    global_batch_size: int | None
    eval_batch_size: int
    views: int
    repeats: int
    augmentation_epochs: int | None
    repeats_order: bool
    mixing: Mixing | None
    neighbors: Neighbors | None
    num_workers: int | None
    skip_unreadable: bool
    predict_split: str
    seed: int
    split_seed: int
    train_transforms: list[Augmentation]
    view_augmentations: list[Augmentation]
    datasets: dict[str, ImageDataset]
    max_evaluation_images = 5000
    _batch_size: int

    def __init__(self) -> None:
        super().__init__()
        self._training: ImageLoader | None = None
        self._resumed: dict[str, int] = {}

    def _crops_from_files(self, images: ImageDataset) -> bool:
        raise NotImplementedError

    @property
    def world(self) -> int:
        """Number of devices that share the images."""
        return self.trainer.world_size if self.trainer else 1

    @property
    def batch_size(self) -> int:
        """Number of training images per step on each device.

        Raises:
            ConfigError: if `global_batch_size` is not divisible by the number of devices.
        """
        if self.global_batch_size is None:
            return self._batch_size
        per_device, rest = divmod(self.global_batch_size, self.world)
        if rest or not per_device:
            nearest_sizes = [str(number * self.world) for number in (per_device, per_device + 1) if number]
            raise ConfigError(
                f"data.global_batch_size: {self.global_batch_size} images cannot be divided evenly among {self.world} "
                f"devices; nearest: {', '.join(nearest_sizes)}"
            )
        return per_device

    @batch_size.setter
    def batch_size(self, size: int) -> None:
        self._batch_size, self.global_batch_size = size, None

    @property
    def workers(self) -> int:
        """Number of decoding processes per device."""
        if self.num_workers is not None:
            return self.num_workers
        devices = self.trainer.num_devices if self.trainer else 1
        return min(16, max(1, cores() // devices))

    @property
    def group(self) -> int:
        """Number of images in a group of a batch: an anchor and its neighbours, or one image."""
        return 1 + self.neighbors.count if self.neighbors else 1

    @property
    def side(self) -> int:
        """Height and width of the networks' input, before a network resizes it."""
        return next(iter(self.datasets.values())).side

    @property
    def evaluation_set(self) -> str:
        """Description of the images of `evaluation_loader`."""
        if "val" in self.datasets:
            return counted(len(self.datasets["val"]), "validation image")
        count = min(len(self.datasets["train"]), self.max_evaluation_images)
        return f"{count:,} training images without augmentation (there is no validation split)"

    def evaluation_loader(self) -> DataLoader:
        """Return a loader of images on which a teacher is evaluated.

        The images are the validation images, or some training images if there is no validation split.
        """
        if "val" in self.datasets:
            return self.in_order(self.datasets["val"])
        train = self.datasets["train"]
        rows = permutation(len(train), self.split_seed, 0)[: self.max_evaluation_images]
        return self.in_order(train.subset(rows.sort().values))

    def training_batches(self, limit: float = 1.0) -> int:
        """Return the number of batches of an epoch on each device, after the data are set up.

        Args:
            limit: `trainer.limit_train_batches`: a number of batches if it is an integer, or a share of all batches.
        """
        batches = len(self.datasets["train"]) // self.world * self.group // self.batch_size
        return min(batches, limit) if isinstance(limit, int) else int(batches * limit)

    def training_images_in_order(self) -> DataLoader:
        """Return a loader of all training images without augmentation, on every rank, for a table of neighbours."""
        return self.in_order(self.datasets["train"], place={})

    def loader_of_draws(self) -> ImageLoader:
        """Return a loader of all images of the epoch that is set (`sampler.set_epoch`), as training augments them.

        The images are in order. If images are mixed, the batches are those of training.
        """
        if self.repeats_order:
            return self.train_dataloader()
        images = self._decoded_for_training(self.datasets["train"])
        sampler = EpochSampler(len(images), seed=self.seed, shuffle=False, repeats=self.repeats)
        return self._loader(images, sampler, self.batch_size)

    def _decoded_for_training(self, images: ImageDataset) -> ImageDataset:
        return images.cropped(self.train_transforms[0], self.views) if self._crops_from_files(images) else images

    def some_training_images(self, count: int) -> Batch:
        """Return a batch of `count` training images, or of all if there are fewer, before `augmented`."""
        images = self._decoded_for_training(self.datasets["train"])
        spare = _SPARE if self.skip_unreadable else 0
        batch = images.take(torch.linspace(0, len(images) - 1, min(len(images), count + spare)).long())
        views = tuple(view[:count] for view in batch.views)
        fields = (field[:count] for field in (batch.images, batch.labels, batch.indices, batch.keys))
        return Batch(*fields, views)

    def train_dataloader(self) -> DataLoader:
        images = self.datasets["train"]
        repetition = {"augmentation_epochs": self.augmentation_epochs, "repeats_order": self.repeats_order}
        order = {**self._place(), **repetition, "seed": self.seed}
        if isinstance(images, StoredImages) and self.trainer:
            images = self.datasets["train"] = images.resident(self.trainer.strategy.root_device)
        images = self._decoded_for_training(images)
        if self.neighbors:
            sampler: EpochSampler = NeighborSampler(self.neighbors.rows, count=self.neighbors.count, **order)
        else:
            sampler = EpochSampler(len(images), shuffle=True, repeats=self.repeats, **order)
        self._training = self._loader(images, sampler, self.batch_size)
        if self._resumed:
            self._training.load_state_dict(self._resumed)
        return self._training

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches that are already used. A resumed run continues after them.

        Lightning also stores the count of the loader, but loses it if a schedule asks for the number of steps.
        """
        return self._training.state_dict() if self._training else {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resumed = state

    def val_dataloader(self) -> DataLoader | list:
        return self.in_order(self.datasets["val"]) if "val" in self.datasets else []

    def test_dataloader(self) -> DataLoader:
        return self.in_order(self.datasets["test"])

    def predict_dataloader(self) -> DataLoader:
        return self.in_order(self.datasets[self.predict_split])

    def _place(self) -> dict[str, int]:
        return {"rank": self.trainer.global_rank, "world": self.world} if self.trainer else {}

    def in_order(
        self, images: ImageDataset, *, place: dict[str, int] | None = None, group: int | None = None
    ) -> ImageLoader:
        """Return a loader of all images in order.

        `place` has the keys `rank` and `world`. If `place` is empty, the loader yields all images on each rank. With
        `group`, each batch consists of this number of successive images. The batches then depend neither on
        `eval_batch_size` nor on the number of ranks.
        """
        place = self._place() if place is None else place
        sampler = EpochSampler(len(images), seed=self.seed, shuffle=False, group=group or 1, **place)
        return self._loader(images, sampler, group or self.eval_batch_size)

    def _loader(self, images: ImageDataset, sampler: EpochSampler, batch_size: int) -> ImageLoader:
        workers = self.workers if isinstance(images, EncodedImages) else 0
        on_host = not (isinstance(images, StoredImages) and images.images.is_cuda)
        return ImageLoader(
            images,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=identity_collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available() and on_host,
            drop_last=sampler.shuffle,
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return self.augmented(batch) if self.trainer and self.trainer.training else batch

    def augmented(self, batch: Batch) -> Batch:
        """Return a training batch with augmented images, further views and mixing, as the networks receive it."""
        num_done = int(self._crops_from_files(self.datasets["train"]))
        sources = [batch.images, *(batch.views or (batch.images.clone() for _ in range(self.views - 1)))]
        further = [*self.train_transforms, *self.view_augmentations]
        views = [
            augment(source, view_keys(batch.keys, view), further if view else self.train_transforms, num_done=num_done)
            for view, source in enumerate(sources)
        ]
        batch = batch._replace(images=views[0], views=tuple(views[1:]))
        return self.mixing(batch) if self.mixing else batch

    def kind_of_images(self, split: str) -> str:
        """Return the name of a split in messages; '' if its images are not of the data set."""
        return split

    def teardown(self, stage: Any) -> None:
        for split, images in self.datasets.items():
            if isinstance(images, EncodedImages) and images.num_skipped:
                kind = images_of(self.kind_of_images(split), images.num_skipped)
                rank_zero_warn(f"data.on_error: {kind} could not be read")
