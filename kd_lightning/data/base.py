"""ImageData: what every data set has in common: splits, loaders, augmentation on the device."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import DataLoader

from kd_lightning.batch import Batch
from kd_lightning.data.images import FileImages, Images
from kd_lightning.data.samplers import EpochSampler
from kd_lightning.data.transforms import Augmentation, HorizontalFlip, RandomCrop, augment
from kd_lightning.errors import ConfigError
from kd_lightning.randomness import permutation

Split = Literal["train", "val", "test"]


class ImageData(LightningDataModule, ABC):
    """Base of every data set.

    Args:
        batch_size: images a step on each device.
        eval_batch_size: the same for evaluation, where no gradient takes memory.
        val_split: share of the training images (or, from 1 up, their number) held out for validation, stratified
            by class and drawn by `split_seed`, so that the test images are looked at once, at the end. 0 trains on
            all, the literature's protocol. Not used where the data set has validation images of its own.
        train_images: how many training images to use, stratified by class and drawn by `split_seed`; default: all.
        augmentations: of the training images, one after another; default: the data set's customary ones; []: none.
        predict_split: which images `predict` reads.
        memory_limit: gigabytes of decoded images up to which a split is kept in memory; above, workers decode.
        num_workers: processes that decode what is not kept in memory.
        split_seed: of the held-out images; apart from `seed`, so that all seeds are judged on the same ones.
        seed: of order and augmentation; the command line links it to `seed_everything`.

    Raises:
        ConfigError: for values out of range.
    """

    num_classes: int
    class_names: list[str]
    name: str
    judged_images = 5000

    def __init__(
        self,
        *,
        batch_size: int = 128,
        eval_batch_size: int = 256,
        val_split: float = 0.1,
        train_images: int | None = None,
        augmentations: list[Augmentation] | None = None,
        predict_split: Split = "test",
        memory_limit: float = 4.0,
        num_workers: int = 0,
        split_seed: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for field, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ConfigError(f"data.{field}: {value} is not positive")
        if val_split < 0:
            raise ConfigError(f"data.val_split: {val_split} is negative; 0 holds nothing out")
        if train_images is not None and train_images < 1:
            raise ConfigError(f"data.train_images: {train_images} is not positive; leave it out for all")
        self.batch_size, self.eval_batch_size, self.val_split = batch_size, eval_batch_size, val_split
        self.train_images, self.augmentations, self.predict_split = train_images, augmentations, predict_split
        self.memory_limit, self.num_workers, self.split_seed, self.seed = memory_limit, num_workers, split_seed, seed
        self.sets: dict[str, Images] = {}

    @abstractmethod
    def load(self, split: Split) -> Images | None:
        """All images of a split, in the order that `Batch.indices` counts; None where the data set has no `val`."""

    def default_augmentations(self) -> list[Augmentation]:
        """What is customary for small photographs: 4 pixels of padded crop and the flip."""
        return [RandomCrop(4), HorizontalFlip()]

    def download(self) -> None:
        """Fetches what is not there yet; called by one process a machine."""

    def prepare_data(self) -> None:
        """Downloads, and sets up on one process before a logger opens a run: bad data then leave nothing behind."""
        self.download()
        if self.trainer:
            self.setup(self.trainer.state.fn.value)

    def setup(self, stage: str) -> None:
        wanted = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": (self.predict_split,)}
        missing = [split for split in wanted[stage] if split not in self.sets]
        if not missing:
            return
        found = {"test": self.load("test")} if missing == ["test"] else self._train_and_val()
        if stage != "fit" and missing[0] not in found:
            raise ConfigError(f"data.val_split: {stage} needs a validation split; it is 0")
        self.sets |= {split: self._keep(found[split]) for split in missing if split in found}

    def _train_and_val(self) -> dict[str, Images]:
        train, val = self.load("train"), self.load("val")
        rows = torch.arange(len(train))
        if val is None and self.val_split:
            rows, held_out = self._draw(train, rows, self.val_split, "val_split")
            val = train.subset(held_out)
        if self.train_images is not None and self.train_images != len(rows):
            _, rows = self._draw(train, rows, self.train_images, "train_images")
        if len(rows) < self.batch_size:
            raise ConfigError(f"data.batch_size: {self.batch_size} is more than the {len(rows)} training images")
        splits = {"train": train.subset(rows) if len(rows) < len(train) else train}
        return splits if val is None else {**splits, "val": val}

    def _draw(self, images: Images, rows: Tensor, share: float, field: str) -> tuple[Tensor, Tensor]:
        """Rows left and rows drawn, both in order, with each class in proportion."""
        count = round(share * len(rows)) if share < 1 else int(share)
        if not self.num_classes <= count <= len(rows) - self.num_classes:
            raise ConfigError(
                f"data.{field}: {share:g} means {count} of {len(rows)} training images; with {self.num_classes} "
                f"classes it can be {self.num_classes} to {len(rows) - self.num_classes}"
            )
        try:
            left, drawn = train_test_split(
                rows.numpy(), test_size=count, random_state=self.split_seed, stratify=images.labels[rows].numpy()
            )
        except ValueError as error:
            raise ConfigError(f"data.{field}: {share:g} cannot be drawn class by class ({error})") from error
        return torch.from_numpy(left).sort().values, torch.from_numpy(drawn).sort().values

    def _keep(self, images: Images) -> Images:
        if isinstance(images, FileImages) and images.bytes() <= self.memory_limit * 2**30:
            images = images.stored()
        images.seed = self.seed
        return images

    @property
    def has_validation(self) -> bool:
        """Whether there are validation images: held out, or the data set's own."""
        return self.val_split > 0

    @property
    def side(self) -> int:
        """Height and width of the images that reach the networks, before a network resizes them."""
        return next(iter(self.sets.values())).side()

    @property
    def judged_on(self) -> str:
        """What `judged_loader` reads, in words."""
        if "val" in self.sets:
            return f"{len(self.sets['val']):,} validation images"
        count = min(len(self.sets["train"]), self.judged_images)
        return f"{count:,} training images, not augmented (there is no validation split)"

    def judged_loader(self) -> DataLoader:
        """The images that a network is judged on before training: validation, or some of training, drawn at random."""
        if "val" in self.sets:
            return self._loader(self.sets["val"], shuffle=False)
        train = self.sets["train"]
        rows = permutation(len(train), self.split_seed, 0)[: self.judged_images]
        return self._loader(train.subset(rows.sort().values), shuffle=False)

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.sets["train"], shuffle=True)

    def val_dataloader(self) -> DataLoader | list:
        return self._loader(self.sets["val"], shuffle=False) if "val" in self.sets else []

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.sets["test"], shuffle=False)

    def predict_dataloader(self) -> DataLoader:
        return self._loader(self.sets[self.predict_split], shuffle=False)

    def _loader(self, images: Images, *, shuffle: bool) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        workers = self.num_workers if isinstance(images, FileImages) else 0
        return DataLoader(
            images,
            batch_size=self.batch_size if shuffle else self.eval_batch_size,
            sampler=EpochSampler(len(images), seed=self.seed, shuffle=shuffle, rank=rank, world=world),
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            drop_last=shuffle,
        )

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        if not (self.trainer and self.trainer.training):
            return batch
        steps = self.default_augmentations() if self.augmentations is None else self.augmentations
        return batch._replace(images=augment(batch.images, batch.keys, steps))


def _as_it_is(batch: Batch) -> Batch:
    return batch
