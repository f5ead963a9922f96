"""Probe: what all evaluates of a student have in common."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation.network_view import FeatureCache, NetworkView, eyes_of
from kd_lightning.metrics import top1


@dataclass
class EvaluationResult:
    """What a probe has found of one network."""

    values: dict[str, float]
    """Numbers by name, logged as `test/<name>`, or as they are where there is a / in it; NaN: it cannot be said."""
    details: dict[str, Any] = field(default_factory=dict)
    """More than numbers, as JSON: for results.json and the report."""
    samples: dict[str, Tensor] = field(default_factory=dict)
    """Of each evaluated image, N: for predictions.safetensors."""

    def add_teacher(self, theirs: "EvaluationResult") -> None:
        """Takes in what was found of the teacher, each name, inside the details too, with `_teacher` behind it."""
        self.values |= {f"{name}_teacher": value for name, value in theirs.values.items()}
        for name, detail in theirs.details.items():
            if name not in self.details:
                continue  # nothing of the student's to stand beside: its classifier is not trained
            if isinstance(detail, dict):
                self.details[name].update({f"{key}_teacher": value for key, value in detail.items()})
            else:
                self.details[f"{name}_teacher"] = detail


class Evaluator(Callback, ABC):
    """Base of every probe: evaluates the student, and where asked the teacher, on images that are not augmented.

    What it finds of the test images is `test/<name>`, at the end; of the validation images `val/<name>`, during `fit`.
    All probes of a run share one reading of each network, in float32, whatever trainer.precision is.

    Args:
        teacher: evaluate the teacher too, once: `test/<name>_teacher`.
        every_n_epochs: how often the validation images are evaluated during `fit`, the last epoch always; 0: never.
        data: labelled images to evaluate by in place of the run's own, which may have no labels; their validation split
            is evaluated at the end of `fit` in any case.

    Raises:
        ConfigError: for images without labels, or without a validation split where one is to be evaluated.
    """

    needs_labels: ClassVar[bool] = True

    def __init__(self, *, teacher: bool = False, every_n_epochs: int = 0, data: ImageData | None = None) -> None:
        if every_n_epochs < 0:
            raise ConfigError(f"every_n_epochs: {every_n_epochs} is negative; 0 is never")
        self.teacher, self.every_n_epochs, self.data = teacher, every_n_epochs, data
        self.found = EvaluationResult({})
        """Of the test."""
        self.seconds = 0.0
        """That it took, reading images included where no probe before it had."""
        self._reader: FeatureCache | None = None

    @abstractmethod
    def evaluate(self, eyes: NetworkView) -> EvaluationResult:
        """What is to be said of one network; of the student's eyes, `eyes.teacher` are the teacher's."""

    def check(self, images: int) -> None:
        """Refuses, before the first step, what cannot be evaluated with that many training images."""

    @property
    def title(self) -> str:
        """What tells it from other probes of a run: two of one title would log the same names."""
        return type(self).__name__ + (f" {self.data.name}" if self.data else "")

    def settings(self) -> dict[str, Any]:
        """The arguments it evaluates by, as JSON, for results.json: values found with others cannot be compared."""
        kept = {key: value for key, value in vars(self).items() if key not in ("found", "seconds") and key[0] != "_"}
        return {key: _plain(value) for key, value in kept.items() if _plain(value) is not None}

    def prepare(self, data: ImageData) -> None:
        """Makes ready, before the first step, other images than the run's own, which are `data`."""
        if self.data:
            make_ready(self.data)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage in ("fit", "test") and not trainer.is_global_zero:  # the first has looked before a run was opened
            self.prepare(trainer.datamodule)

    def check_data(self, data: ImageData) -> None:
        """As `prepare`, and refuses images that cannot be evaluated by before a run is opened."""
        self.prepare(data)
        named, every = type(self).__name__, self.every_n_epochs
        if self.data:
            data = self.data
            data.setup("fit")
        if self.needs_labels and not data.labeled:
            raise ConfigError(f"{named}.data: the images have no labels to evaluate by; name some that have")
        self.check(len(data.datasets["train"]))
        if (every or self.data) and "val" not in data.datasets:
            field = "data.val_split" if self.data else "every_n_epochs"
            raise ConfigError(f"{named}.{field}: there are no validation images to evaluate by")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reader = None

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reader = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs = trainer.current_epoch + 1
        evaluated = self.every_n_epochs or self.data
        last = epochs == trainer.max_epochs or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        if evaluated and (last or (self.every_n_epochs and epochs % self.every_n_epochs == 0)):
            self._evaluate(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluate(trainer, pl_module, "test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reader = None  # a training set's embeddings may be large

    @torch.no_grad()
    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        begun, data = time.monotonic(), self.data or trainer.datamodule
        if self.needs_labels and not data.labeled:
            rank_zero_warn(f"{type(self).__name__}: the images have no labels to evaluate by; left out")
            return
        data.setup("fit")
        self.check(len(data.datasets["train"]))
        first = next(callback for callback in trainer.callbacks if isinstance(callback, Evaluator))
        first._reader = first._reader or FeatureCache(pl_module.device)
        student = eyes_of(trainer, pl_module, data, split, first._reader)
        try:
            found = self.evaluate(student)
            if self.teacher and split == "test" and student.teacher:
                found.add_teacher(self.evaluate(student.teacher))
        except ValueError as error:  # ConfigError is one: what else was found is not lost by it
            rank_zero_warn(f"{type(self).__name__}: {error}; left out")
            return
        if self.data and trainer.datamodule.labeled:  # beside the run's own images, others have a name of their own
            found.values = {f"{name}_{data.name}": value for name, value in found.values.items()}
        for name, value in found.values.items():
            # every rank has evaluated the whole: the mean over them is what each has
            full = name if "/" in name else f"{split}/{name}"
            pl_module.log(full, float(value), prog_bar=split == "val", sync_dist=True)
        if split == "test":
            self.found, self.seconds = found, time.monotonic() - begun


def _plain(value: Any) -> Any:
    """A setting as JSON has it, data by their name; None for what is none."""
    if isinstance(value, ImageData):
        return value.name
    if isinstance(value, list | tuple | set):
        return [_plain(each) for each in (sorted(value) if isinstance(value, set) else value)]
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return value if isinstance(value, str | int | float | bool) else None


def make_ready(other: ImageData) -> None:
    """Fetches images that are evaluated by and not trained on, so that a batch for training may be of any size."""
    other.batch_size = 1
    other.prepare_data()


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """The share of N images whose label has the highest of their scores N,K."""
    metric = top1(scores.shape[1])
    metric.sync_on_compute = False  # every rank has the whole
    metric.to(labels.device).update(scores.to(labels.device), labels)
    return float(metric.compute())
