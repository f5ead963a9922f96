"""ImageData: the base class of the data sets, with their common arguments and splits."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kd_lightning.data.augmentations import Augmentation, Preset, RandomResizedCrop, preset
from kd_lightning.data.class_order import check_classes
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.images import ImageDataset
from kd_lightning.data.levels import examine
from kd_lightning.data.limits import check_limits
from kd_lightning.data.loader import cores
from kd_lightning.data.loader_mixin import LoaderMixin
from kd_lightning.data.neighbors import Neighbors
from kd_lightning.data.splits import stratified_split
from kd_lightning.errors import ConfigError, RunError
from kd_lightning.io import own_files
from kd_lightning.mixing import Mixing
from kd_lightning.words import counted

Split = Literal["train", "val", "test"]
_MOST_WORKERS = 64
"""Number of decoding processes per device that is always allowed. A machine with many cores may use four per core."""


class ImageData(LoaderMixin, ABC):
    """Data set of the run and its arguments.

    This is the base class of all data sets.

    Args:
        batch_size: Number of training images per step on each device.
        global_batch_size: Number of training images per step on all devices together. It replaces batch_size. Results
            are then the same on any number of devices, except for batch normalisation, which uses the images of one
            device.
        eval_batch_size: Number of images per step of the validation and the test on each device. It can be larger than
            batch_size, because evaluation stores no gradients. It does not change the results.
        val_split: Share of the training images that is held out for validation. A value of 1 or more is a number of
            images. The images are stratified by class and drawn with `split_seed`. With 0, all images are used for
            training, as in most papers. This argument has no effect if the data set has its own validation images.
        max_train_samples: Number of training images that are used. The images are stratified by class and drawn with
            `split_seed`, after the validation images are held out. Default: all training images.
        augmentations: List of augmentations of the training images, in order, or the name of a published set. []
            disables augmentation. Default: the usual augmentations of the data set.
        views: Number of differently augmented views of each training image per step.
        view_augmentations: List of further augmentations of all views except the first, after `augmentations`. Default:
            none, so that all views have the same augmentations.
        repeats: Number of times that an image occurs in an epoch, each time with another augmentation (repeated
            augmentation; DeiT uses 3). The number of steps per epoch does not change. With 3, an epoch therefore
            contains only a third of the images.
        augmentation_epochs: Number of epochs after which the augmentations repeat: with 4, each image is augmented in
            epoch 5 as in epoch 1. A teacher store (`model.teacher_store`) needs this argument. If images are mixed, the
            order of the images repeats as well, so that each mixed image occurs again. Default: they never repeat.
        mixing: Mixup and CutMix of the training batches. Default: none.
        neighbors: Batches that consist of anchors and some of their nearest neighbours. Default: none.
        predict_split: Split that `predict` reads.
        memory_limit: Limit in gigabytes for the decoded images of a split. A split up to this size is stored in memory.
            Its decoded images are also written to a cache on disk, which later runs read. Training images are copied to
            the GPU if they need at most half of the GPU's free memory. Larger splits are decoded by workers.
        num_workers: Number of processes per device that decode images that are not in memory. Default: the number of
            cores divided by the number of devices, at most 16.
        on_error: Reaction to unreadable images: `skip` skips them with a warning, `raise` raises an error.
        split_seed: Seed with which the images of `val_split` and `max_train_samples` are drawn. It is separate from
            `seed`, so that runs with different seeds use the same images.
        seed: Seed of the order and the augmentation of the training images. The command line sets it to the value of
            `seed_everything`.

    Raises:
        ConfigError: if a value is out of range.
    """

    num_classes: int
    class_names: list[str]
    class_ids: list[str] = []
    """Names of the classes in the files (such as WordNet ids), if these names differ from `class_names`."""
    name: str
    official_side: int | None = None
    """Side in pixels of all images of a published data set."""
    labeled = True
    partly_labeled = False
    """Whether labelled images may be mixed with images that have the label -1, so that the labels are not checked."""
    test_split: float
    """Share or number of the images that are the test split if the data set has none."""
    test_split_advice = {"field": "data.test_split"}
    """Arguments of `stratified_split` for the error if the images cannot be divided in this way."""
    held_out = ""
    """Description of the images that a run without labels does not use, for the overview at its start."""
    tested = False
    """Whether `fit` ends with the test, so that the test images are checked before the first step."""

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
        view_augmentations: list[Augmentation] | None = None,
        repeats: int = 1,
        augmentation_epochs: int | None = None,
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
        further = {"global_batch_size": global_batch_size, "augmentation_epochs": augmentation_epochs}
        for field, value in further.items():
            if value is not None and value < 1:
                raise ConfigError(f"data.{field}: {value} is not positive; omit it")
        for field, value in (("memory_limit", memory_limit), ("num_workers", num_workers or 0)):
            if value < 0:
                raise ConfigError(f"data.{field}: {value} is negative")
        if (num_workers or 0) > (most := max(_MOST_WORKERS, 4 * cores())):
            raise ConfigError(
                f"data.num_workers: {num_workers} processes per device are too many for the {cores()} cores of this "
                f"machine; give at most {most}, or omit it"
            )
        if not 0 <= split_seed < 2**32:
            raise ConfigError(f"data.split_seed: {split_seed} is not a number from 0 to 2**32 - 1")
        if not val_split < math.inf:
            raise ConfigError(f"data.val_split: {val_split} is not a finite number")
        if val_split < 0:
            raise ConfigError(f"data.val_split: {val_split} is negative; 0 holds out no images")
        if max_train_samples is not None and max_train_samples < 1:
            raise ConfigError(f"data.max_train_samples: {max_train_samples} is not positive; omit it to use all images")
        if neighbors and repeats > 1:
            raise ConfigError(
                "data.repeats: repeated augmentation cannot be combined with data.neighbors; use one of them"
            )
        self._batch_size, self.global_batch_size, self.eval_batch_size = batch_size, global_batch_size, eval_batch_size
        self.val_split, self.max_train_samples, self.predict_split = val_split, max_train_samples, predict_split
        self.views, self.repeats, self.augmentation_epochs = views, repeats, augmentation_epochs
        self.repeats_order = mixing is not None
        """Whether the order of the images repeats together with the augmentations, because images are mixed."""
        self.augmentations = preset(augmentations) if isinstance(augmentations, str) else augmentations
        self.view_augmentations = view_augmentations or []
        self.mixing, self.neighbors, self.memory_limit = mixing, neighbors, memory_limit
        self.num_workers, self.skip_unreadable, self.split_seed, self.seed = (
            num_workers,
            on_error == "skip",
            split_seed,
            seed,
        )
        self.datasets: dict[str, ImageDataset] = {}
        self.checks: list[Callable[[ImageData], None]] = []
        """Further checks that run before a run's folder is created. The command line adds the checks of evaluators."""
        self._dark = False
        self._check_groups()

    @abstractmethod
    def load(self, split: Split) -> ImageDataset | None:
        """Return all images of a split in the order of `Batch.indices`, or None if the data set has no such split."""

    def default_augmentations(self) -> list[Augmentation]:
        """Return the default augmentations. For small photographs: a crop after 4 pixels of padding, and a flip."""
        return preset("cifar")

    @property
    def train_transforms(self) -> list[Augmentation]:
        """The augmentations of the training images."""
        return self.default_augmentations() if self.augmentations is None else self.augmentations

    def download(self) -> None:
        """Download missing files. One process per machine calls this function."""

    def prepare_data(self) -> None:
        """Download and check the data in one process before the folder of the run is created.

        If the data are invalid, no folder remains.
        """
        if not self.trainer:
            self.download()
            return
        method, fits = self.trainer.lightning_module, self.trainer.training
        if fits:
            method.check_data(self)
        if fits and self.trainer.overfit_batches and (self.neighbors or self.repeats > 1):
            raise ConfigError(
                "trainer.overfit_batches: images are read in their order, which data.neighbors and data.repeats "
                "would change; omit trainer.overfit_batches, or omit data.neighbors and data.repeats"
            )
        self.download()
        self.setup(self.trainer.state.fn.value)
        if fits and self.tested and self.labeled:
            self.setup("test")
        check_limits(self, self.trainer, self.trainer.state.fn.value)
        if teacher := getattr(method, "teacher", None):
            check_classes(teacher, self)
            if self.neighbors and fits:
                self.neighbors.check_teacher(teacher)
        while self.checks:  # each check runs only once, although `fit` ends with the test
            self.checks.pop(0)(self)

    def setup(self, stage: str) -> None:
        splits_by_stage = {
            "fit": ("train", "val"),
            "validate": ("val",),
            "test": ("test",),
            "predict": (self.predict_split,),
        }
        missing = [split for split in splits_by_stage[stage] if split not in self.datasets]
        if not missing:
            return
        loaded = {"test": self._load("test")} if missing == ["test"] else self._train_and_val()
        if stage != "fit" and missing[0] not in loaded:
            raise ConfigError(
                f"data.val_split: 0 holds out no images, but {stage} needs a validation split; set it above 0"
            )
        if stage == "fit":
            self._check_batch_size(len(loaded["train"]))
        self.datasets |= {split: self._keep(loaded[split], split) for split in missing if split in loaded}
        self._check_shapes()
        if stage == "fit" and self.neighbors:
            self.neighbors.load(self.datasets["train"])

    def _check_groups(self) -> None:
        if self.batch_size % self.group:
            scope = f" on each of {self.world} devices" if self.world > 1 else ""
            raise ConfigError(
                f"data.batch_size: {self.batch_size} images{scope} cannot be divided into anchors with "
                f"{self.neighbors.count} neighbours each; use a multiple of {self.group}"
            )

    def _check_batch_size(self, count: int) -> None:
        self._check_groups()
        count_per_device = count // self.world * self.group
        if count_per_device < self.batch_size:
            subject = "training images with their neighbours" if self.neighbors else "training images"
            scope = f" of each of {self.world} devices" if self.world > 1 else ""
            raise ConfigError(
                f"data.batch_size: {self.batch_size} is more than the {count_per_device} {subject}{scope}"
            )

    def _check_shapes(self) -> None:
        (first, images), *others = self.datasets.items()
        for split, other_images in others:
            if other_images.shape != images.shape:
                shapes = [f"{height}x{width}" for width, height in (images.shape, other_images.shape)]
                raise ConfigError(
                    f"data.size: the {split} images have {shapes[1]} pixels, but the {first} images have {shapes[0]}; "
                    "set data.size to resize all"
                )

    def _load(self, split: Split) -> ImageDataset | None:
        images = self.loaded(split)
        if isinstance(images, EncodedImages):
            images = images.with_content()
            self._dark |= examine(images.sources, warn=not self._dark)
        return images

    def loaded(self, split: Split) -> ImageDataset | None:
        """Return the images that `load` returns; an error in a class of the user is one line with its place.

        Raises:
            ConfigError: if `load` fails in a file of the user, or if it returns other images or labels than it must.
        """
        where = f"data: {type(self).__name__}.load({split!r})"
        try:
            images = self.load(split)
        except Exception as error:
            place = "" if isinstance(error, ConfigError | RunError) else own_files.reason(error)
            if place:
                raise ConfigError(f"{where} failed, {place}") from error
            raise
        if not (isinstance(images, ImageDataset) or (images is None and split != "train")):
            raise ConfigError(f"{where} returned {type(images).__name__}; return StoredImages or EncodedImages")
        if images is not None and self.labeled and not self.partly_labeled:
            self._check_labels(where, images.labels)
        return images

    def _check_labels(self, where: str, labels: Tensor) -> None:
        if labels.dtype != torch.int64 or labels.ndim != 1:
            kind = f"{str(labels.dtype).removeprefix('torch.')} with {counted(labels.ndim, 'dimension')}"
            raise ConfigError(f"{where} returned labels of type {kind}; return a tensor of type int64 with 1 dimension")
        wrong = (labels < 0) | (labels >= self.num_classes)
        if wrong.any():
            row = int(wrong.int().argmax())
            raise ConfigError(
                f"{where} returned {counted(int(wrong.sum()), 'label')} outside of 0 to {self.num_classes - 1}, such "
                f"as {labels[row]} for image {row}, but num_classes is {self.num_classes}; correct the labels or "
                "num_classes"
            )

    def _train_and_val(self) -> dict[str, ImageDataset]:
        train, val = self._load("train"), self._load("val")
        classes = {*train.labels.tolist()}
        if absent := [name for label, name in enumerate(self.class_names) if label not in classes]:
            total = len(self.class_names)
            rank_zero_warn(f"data: {len(absent)} of {total} classes have no training images, for example {absent[0]!r}")
        if not self._crops_from_files(train):
            train = self._in_memory(train)  # before splitting, so that all splits share one cache
        if self.labeled and (lost := classes - {*train.labels.tolist()}):
            raise ConfigError(
                f"data.on_error: none of the training images of the class {self.class_names[min(lost)]!r} can be read; "
                "repair these images, or remove the class"
            )
        rows = torch.arange(len(train))
        if val is None and self.val_split:
            rows, held_out = self._draw(train, rows, self.val_split, "val_split", "0 holds out no images")
            val = train.subset(held_out)
        if self.max_train_samples is not None and self.max_train_samples != len(rows):
            _, rows = self._draw(train, rows, self.max_train_samples, "max_train_samples", "omit it to use all images")
        splits = {"train": train.subset(rows) if len(rows) < len(train) else train}
        return splits if val is None else {**splits, "val": val}

    def part(self, images: EncodedImages, split: Split) -> EncodedImages:
        """Return the training or test images of a data set without a test split."""
        rows, advice = torch.arange(len(images)), self.test_split_advice
        train, test = stratified_split(images.labels, rows, self.test_split, seed=self.split_seed, **advice)
        return images.subset(train if split == "train" else test)

    def _draw(self, images: ImageDataset, rows: Tensor, share: float, field: str, hint: str) -> tuple[Tensor, Tensor]:
        if not self.labeled and images.labels.max() >= 0:
            hint = f"{hint}, and data.test_split 0 draws them without regard to their folders or labels"
        return stratified_split(images.labels, rows, share, seed=self.split_seed, field=f"data.{field}", hint=hint)

    def _crops_from_files(self, images: ImageDataset) -> bool:
        """Return whether the images are resized when decoded and the first augmentation is a RandomResizedCrop.

        In this case, the crop is taken from the image at the full resolution of its file.
        """
        crops = bool(self.train_transforms) and isinstance(self.train_transforms[0], RandomResizedCrop)
        return crops and isinstance(images, EncodedImages) and images.resized

    def _in_memory(self, images: ImageDataset) -> ImageDataset:
        if isinstance(images, EncodedImages) and images.bytes() <= self.memory_limit * 1e9:
            return images.stored(self.name)
        return images

    def _keep(self, images: ImageDataset, split: str) -> ImageDataset:
        if not (split == "train" and self._crops_from_files(images)):
            images = self._in_memory(images)
        if isinstance(images, EncodedImages):
            images.origin = f"decoded by {counted(self.workers, 'worker')}" if self.workers else "decoded on access"
        images.seed = self.seed
        if not self.labeled:  # until here, the names of class folders are labels by which images are held out
            images.labels = torch.full_like(images.labels, -1)
        return images

    @property
    def name_in_results(self) -> str:
        """Name in results.json. `compare` compares only runs whose data sets have the same name."""
        return self.name

    @property
    def name_of_predictions(self) -> str:
        """Name of the images that `predict` reads, and of the folder with the predictions."""
        return self.predict_split

    @property
    def has_validation(self) -> bool:
        """Whether there are validation images. They may be held out, or belong to the data set."""
        return self.val_split > 0
