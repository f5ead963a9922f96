"""ImageData: what every data set has in common: its arguments, and how its splits come about."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from kd_lightning.data.augmentations import Augmentation, Preset, RandomResizedCrop, preset
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.images import ImageDataset
from kd_lightning.data.loader_mixin import LoaderMixin
from kd_lightning.data.neighbors import Neighbors
from kd_lightning.data.splits import draw
from kd_lightning.data.teacher import check_classes
from kd_lightning.errors import ConfigError
from kd_lightning.mixing import Mixing

Split = Literal["train", "val", "test"]


class ImageData(LoaderMixin, ABC):
    """Base of every data set.

    Args:
        batch_size: images a step on each device.
        global_batch_size: images a step of all devices together, in place of batch_size: the devices share them, and
            a run is the same on any number of devices (as far as nothing is normalised over a device's own batch).
        eval_batch_size: the same for evaluation, where no gradient takes memory.
        val_split: share of the training images (or, from 1 up, their number) held out for validation, stratified
            by class and drawn by `split_seed`, so that the test images are looked at once, at the end. 0 trains on
            all, the literature's protocol. Not used where the data set has validation images of its own.
        max_train_samples: how many training images to use, stratified by class and drawn by `split_seed`; default: all.
        augmentations: of the training images, one after another, or a published set by name; default: the data
            set's customary ones; []: none.
        views: how many differently augmented views of each training image a step gets.
        repeats: how often each image comes in an epoch of the same length (3 is DeiT's repeated augmentation).
        mixing: mixup and CutMix of the training batches.
        neighbors: batches of anchors with some of their nearest neighbours.
        predict_split: which images `predict` reads.
        memory_limit: gigabytes of decoded images up to which a split is kept in memory, on the GPU where there is
            one (and a disk cache makes the next start quick); above, workers decode.
        num_workers: processes that decode what is not kept in memory; default: the cores, shared among the devices.
        on_error: `skip` leaves images that cannot be read out, with a warning; `raise` stops at them.
        split_seed: of the held-out images; apart from `seed`, so that all seeds are evaluated on the same ones.
        seed: of order and augmentation; the command line links it to `seed_everything`.

    Raises:
        ConfigError: for values out of range.
    """

    num_classes: int
    class_names: list[str]
    class_ids: list[str] = []
    """What the classes are called in the files, where that is not their name (WordNet ids)."""
    name: str
    labeled = True
    tested = False
    """Whether `fit` ends with the test, so that its images are looked at before the first step."""

    def __init__(
        self,
        *,
        batch_size: int = 128,
        global_batch_size: int | None = None,
        eval_batch_size: int = 256,
        val_split: float = 0.1,
        max_train_samples: int | None = None,
        augmentations: list[Augmentation] | Preset | None = None,
        views: int = 1,
        repeats: int = 1,
        mixing: Mixing | None = None,
        neighbors: Neighbors | None = None,
        predict_split: Split = "test",
        memory_limit: float = 4.0,
        num_workers: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        split_seed: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "views": views, "repeats": repeats}
        for field, value in sizes.items():
            if value < 1:
                raise ConfigError(f"data.{field}: {value} is not positive")
        if global_batch_size is not None and global_batch_size < 1:
            raise ConfigError(f"data.global_batch_size: {global_batch_size} is not positive; leave it out")
        for field, value in (("memory_limit", memory_limit), ("num_workers", num_workers or 0)):
            if value < 0:
                raise ConfigError(f"data.{field}: {value} is negative")
        if not 0 <= split_seed < 2**32:
            raise ConfigError(f"data.split_seed: {split_seed} is not a number from 0 to 2**32 - 1")
        if not val_split < math.inf:
            raise ConfigError(f"data.val_split: {val_split} is not a finite number")
        if val_split < 0:
            raise ConfigError(f"data.val_split: {val_split} is negative; 0 holds nothing out")
        if max_train_samples is not None and max_train_samples < 1:
            raise ConfigError(f"data.max_train_samples: {max_train_samples} is not positive; leave it out for all")
        if neighbors and repeats > 1:
            raise ConfigError("data.repeats: repeated augmentation and data.neighbors do not go together; keep one")
        self._batch_size, self.global_batch_size, self.eval_batch_size = batch_size, global_batch_size, eval_batch_size
        self.val_split, self.max_train_samples, self.predict_split = val_split, max_train_samples, predict_split
        self.views, self.repeats = views, repeats
        self.augmentations = preset(augmentations) if isinstance(augmentations, str) else augmentations
        self.mixing, self.neighbors, self.memory_limit = mixing, neighbors, memory_limit
        self.num_workers, self.skips, self.split_seed, self.seed = num_workers, on_error == "skip", split_seed, seed
        self.datasets: dict[str, ImageDataset] = {}
        self.checks: list[Callable[[ImageData], None]] = []
        """What else looks at the data before a run is opened, and may refuse them; the command line's probes do."""
        self._check_groups()

    @abstractmethod
    def load(self, split: Split) -> ImageDataset | None:
        """All images of a split, in the order that `Batch.indices` counts; None where the data set has no `val`."""

    def default_augmentations(self) -> list[Augmentation]:
        """What is customary; for small photographs, 4 pixels of padded crop and the flip."""
        return preset("cifar")

    @property
    def train_transforms(self) -> list[Augmentation]:
        """The augmentations of the training images."""
        return self.default_augmentations() if self.augmentations is None else self.augmentations

    def download(self) -> None:
        """Fetches what is not there yet; called by one process a machine."""

    def prepare_data(self) -> None:
        """Downloads, and sets up on one process before a logger opens a run: bad data then leave nothing behind."""
        if not self.trainer:
            self.download()
            return
        method, fits = self.trainer.lightning_module, self.trainer.training
        if fits:
            method.check_data(self)
        if fits and self.trainer.overfit_batches and (self.neighbors or self.repeats > 1):
            raise ConfigError(
                "trainer.overfit_batches: it takes images in order, without data.neighbors and data.repeats"
            )
        self.download()
        self.setup(self.trainer.state.fn.value)
        if fits:
            self._check_interval(self.trainer)
        if fits and self.tested and self.labeled:
            self.setup("test")
        if teacher := getattr(method, "teacher", None):
            check_classes(teacher, self)
            if self.neighbors and fits:
                self.neighbors.check_teacher(teacher)
        while self.checks:  # once: `fit` ends with the test
            self.checks.pop(0)(self)

    def _check_interval(self, trainer: Any) -> None:
        interval, steps = (
            trainer.val_check_interval,
            len(self.datasets["train"]) * self.group // (self.batch_size * self.world),
        )
        if isinstance(trainer.limit_train_batches, int):
            steps = min(steps, trainer.limit_train_batches)
        if type(interval) is int and trainer.check_val_every_n_epoch and "val" in self.datasets and interval > steps:
            raise ConfigError(f"trainer.val_check_interval: {interval} is more than the {steps} steps of an epoch")

    def setup(self, stage: str) -> None:
        wanted = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": (self.predict_split,)}
        missing = [split for split in wanted[stage] if split not in self.datasets]
        if not missing:
            return
        found = {"test": self.load("test")} if missing == ["test"] else self._train_and_val()
        if stage != "fit" and missing[0] not in found:
            raise ConfigError(f"data.val_split: {stage} needs a validation split; it is 0")
        if stage == "fit":
            self._check_batch_size(len(found["train"]))
        self.datasets |= {split: self._keep(found[split], split) for split in missing if split in found}
        if stage == "fit" and self.neighbors:
            self.neighbors.load(self.datasets["train"])

    def _check_groups(self) -> None:
        if self.batch_size % self.group:
            where = f" on each of {self.world} devices" if self.world > 1 else ""
            raise ConfigError(
                f"data.batch_size: {self.batch_size} images{where} are no whole number of anchors with "
                f"{self.neighbors.count} neighbours each; take a multiple of {self.group}"
            )

    def _check_batch_size(self, count: int) -> None:
        self._check_groups()
        each = count // self.world * self.group
        if each < self.batch_size:
            what = "training images with their neighbours" if self.neighbors else "training images"
            where = f" of each of {self.world} devices" if self.world > 1 else ""
            raise ConfigError(f"data.batch_size: {self.batch_size} is more than the {each} {what}{where}")

    def _train_and_val(self) -> dict[str, ImageDataset]:
        train, val = self.load("train"), self.load("val")
        if not self._cuts_files(train):
            train = self._in_memory(train)  # the whole of it, so that all splits of it share one cache
        rows = torch.arange(len(train))
        if val is None and self.val_split:
            rows, held_out = self._draw(train, rows, self.val_split, "val_split", "or 0 for none")
            val = train.subset(held_out)
        if self.max_train_samples is not None and self.max_train_samples != len(rows):
            _, rows = self._draw(train, rows, self.max_train_samples, "max_train_samples", "or left out for all")
        splits = {"train": train.subset(rows) if len(rows) < len(train) else train}
        return splits if val is None else {**splits, "val": val}

    def _draw(self, images: ImageDataset, rows: Tensor, share: float, field: str, hint: str) -> tuple[Tensor, Tensor]:
        return draw(images.labels, rows, share, seed=self.split_seed, field=field, otherwise=hint)

    def _cuts_files(self, images: ImageDataset) -> bool:
        """Whether the first augmentation is a crop that is to see the files' own pixels, and these are resized else."""
        crops = bool(self.train_transforms) and isinstance(self.train_transforms[0], RandomResizedCrop)
        return crops and isinstance(images, EncodedImages) and images.resized

    def _in_memory(self, images: ImageDataset) -> ImageDataset:
        if isinstance(images, EncodedImages) and images.bytes() <= self.memory_limit * 1e9:
            return images.stored(self.name)
        return images

    def _keep(self, images: ImageDataset, split: str) -> ImageDataset:
        if not (split == "train" and self._cuts_files(images)):
            images = self._in_memory(images)
        if isinstance(images, EncodedImages):
            images.origin = f"decoded by {self.workers} workers" if self.workers else "decoded when asked for"
        images.seed = self.seed
        return images

    @property
    def has_validation(self) -> bool:
        """Whether there are labelled validation images: held out, or the data set's own."""
        return self.val_split > 0
