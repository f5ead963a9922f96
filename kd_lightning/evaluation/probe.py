"""Probe: what every judge of an embedding has in common."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation.embedding import embed
from kd_lightning.metrics import top1


class Embedded(NamedTuple):
    """Images as a network's embedding sees them, in float32."""

    vectors: Tensor
    """N,D."""
    labels: Tensor
    """N int64."""


class Probe(Callback, ABC):
    """Base of every probe: how well the classes can be told from an embedding that may never have seen a label.

    The training images, not augmented, are what it learns from. `test/<name>` is of the test images, at the end;
    `val/<name>` of the validation images, during `fit`. All probes of a run share one reading of each network.

    Args:
        teacher: judge the teacher too, once: `test/<name>_teacher`.
        every_n_epochs: how often the validation images are judged during `fit`, the last epoch always; 0: never.
        data: labelled images to judge by in place of the run's own, which may have no labels; their validation split
            is judged at the end of `fit` in any case.

    Raises:
        ConfigError: for images without labels, or without a validation split where one is to be judged.
    """

    name: ClassVar[str]

    def __init__(self, *, teacher: bool = False, every_n_epochs: int = 0, data: ImageData | None = None) -> None:
        if every_n_epochs < 0:
            raise ConfigError(f"every_n_epochs: {every_n_epochs} is negative; 0 is never")
        self.teacher, self.every_n_epochs, self.data = teacher, every_n_epochs, data
        self._held: dict[tuple[int, int, str], Embedded] = {}

    @abstractmethod
    def scores(self, known: Embedded, asked: Tensor, classes: int) -> Tensor:
        """A score N,K for each class of the embeddings N,D `asked`, from M embeddings whose labels are known."""

    def check(self, images: int) -> None:
        """Refuses, before the first step, what cannot be judged with that many training images."""

    def check_data(self, data: ImageData) -> None:
        """Refuses, before a run is opened, images that cannot be judged by; `data` are the run's own."""
        named, every = type(self).__name__, self.every_n_epochs
        if self.data:
            data = self.data
            data.prepare_data()
            data.setup("fit")
        if not data.labeled:
            raise ConfigError(f"{named}.data: the images have no labels to judge by; name some that have")
        self.check(len(data.sets["train"]))
        if (every or self.data) and "val" not in data.sets:
            field = "data.val_split" if self.data else "every_n_epochs"
            raise ConfigError(f"{named}.{field}: there are no validation images to judge by")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._held.clear()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._held.clear()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs = trainer.current_epoch + 1
        judged = self.every_n_epochs or self.data
        last = epochs == trainer.max_epochs or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        if judged and (last or (self.every_n_epochs and epochs % self.every_n_epochs == 0)):
            self._judge(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._judge(trainer, pl_module, "test")

    @torch.no_grad()
    def _judge(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        data = self.data or trainer.datamodule
        data.setup("fit")
        if split == "test":
            data.setup("test")
        self.check(len(data.sets["train"]))
        networks = {self.name: pl_module.student}
        if self.teacher and split == "test" and hasattr(pl_module, "teacher"):
            networks[f"{self.name}_teacher"] = pl_module.teacher
        probes = [callback for callback in trainer.callbacks if isinstance(callback, Probe)]
        device, classes = pl_module.device, data.num_classes
        for name, network in networks.items():
            known, asked = (probes[0].embedded(network, data, part, device) for part in ("train", split))
            accuracy = top1(classes).to(device)
            accuracy.update(self.scores(known, asked.vectors, classes).to(device), asked.labels)
            reached = accuracy.compute()
            # every rank has judged the whole: the mean over them is what each has
            pl_module.log(f"{split}/{name}", reached, prog_bar=split == "val", sync_dist=True)
            if split == "test":
                rank_zero_info(f"test/{name}: {reached:.2%}")

    def embedded(self, network: torch.nn.Module, data: ImageData, split: str, device: torch.device) -> Embedded:
        """The images of a split, read once for all probes that judge at one time."""
        place = (id(network), id(data), split)
        if place not in self._held:
            images, was_training = data.sets[split], network.training
            with torch.random.fork_rng(devices=[]):  # a loader draws a seed; training is not to move by that
                vectors = embed(network, data.in_order(images, whole=True), len(images), device, quiet=True)
            network.train(was_training)
            self._held[place] = Embedded(vectors, images.labels.to(device))
        return self._held[place]
