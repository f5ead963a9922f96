"""Evaluator: base class of all evaluators."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError
from kd_lightning.evaluation.network_view import FeatureCache, NetworkView, network_view
from kd_lightning.metrics import top1


@dataclass
class EvaluationResult:
    """Results of an evaluator for one network."""

    values: dict[str, float]
    """Numbers by name. They are logged as `test/<name>`, or as `<name>` if the name contains a /. NaN: undefined."""
    details: dict[str, Any] = field(default_factory=dict)
    """Further results for results.json and the report. JSON must be able to represent them."""
    samples: dict[str, Tensor] = field(default_factory=dict)
    """Tensors for predictions.safetensors, with one entry per evaluated image (N)."""

    def add_teacher(self, teacher: "EvaluationResult") -> None:
        """Add the teacher's results, with `_teacher` appended to each name, also within the details."""
        self.values |= {f"{name}_teacher": value for name, value in teacher.values.items()}
        for name, detail in teacher.details.items():
            if name not in self.details:
                continue  # the student has no such detail: its classifier is not trained
            if isinstance(detail, dict):
                self.details[name].update({f"{key}_teacher": value for key, value in detail.items()})
            else:
                self.details[f"{name}_teacher"] = detail


class Evaluator(Callback, ABC):
    """Base class of evaluators. They evaluate the student and optionally the teacher on images without augmentation.

    Results on the test images are logged as `test/<name>` at the end. Results on the validation images are logged as
    `val/<name>` during `fit`. Each network runs only once over each set of images, and all evaluators of a run share
    the outputs. This pass runs without autocast, and the outputs are stored as float32.

    Args:
        teacher: Whether the teacher is also evaluated, once, on the test images. Its results are logged as
            `test/<name>_teacher`.
        every_n_epochs: Number of epochs between two evaluations of the validation images during `fit`. The last epoch
            is always evaluated. 0 disables these evaluations.
        data: Labelled data to evaluate on instead of the run's own data, which may have no labels. The validation split
            of this data is always evaluated at the end of `fit`.

    Raises:
        ConfigError: if `every_n_epochs` is negative.
    """

    needs_labels: ClassVar[bool] = True

    def __init__(self, *, teacher: bool = False, every_n_epochs: int = 0, data: ImageData | None = None) -> None:
        if every_n_epochs < 0:
            raise ConfigError(f"every_n_epochs: {every_n_epochs} is negative; 0 disables the evaluation during fit")
        self.teacher, self.every_n_epochs, self.data = teacher, every_n_epochs, data
        self.result = EvaluationResult({})
        """Results on the test images."""
        self.seconds = 0.0
        """Seconds of the test evaluation, including passes that earlier evaluators have not already run."""
        self._cache: FeatureCache | None = None

    @abstractmethod
    def evaluate(self, view: NetworkView) -> EvaluationResult:
        """Return the results for one network. In the view of the student, `view.teacher` is the view of the teacher."""

    def check(self, images: int) -> None:
        """Raise an error before the first step if this number of training images is too small for the evaluator."""

    @property
    def title(self) -> str:
        """Name of the evaluator within a run. Two evaluators with the same title would log the same names."""
        return type(self).__name__ + (f" {self.data.name}" if self.data else "")

    def settings(self) -> dict[str, Any]:
        """Return the arguments for results.json. Results with different arguments are not comparable."""
        arguments = {name: value for name, value in vars(self).items() if name not in ("result", "seconds")}
        arguments = {name: _plain(value) for name, value in arguments.items() if not name.startswith("_")}
        return {name: value for name, value in arguments.items() if value is not None}

    def prepare(self, data: ImageData) -> None:
        """Prepare images that are not part of `data`, the data of the run. This is called before the first step."""
        if self.data:
            prepare_other_data(self.data)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # rank 0 has prepared the images before the run's folder was created
        if stage in ("fit", "test") and not trainer.is_global_zero:
            self.prepare(trainer.datamodule)

    def check_data(self, data: ImageData) -> None:
        """Prepare the images, and raise an error for unsuitable images. This is called before the run's folder exists.

        Raises:
            ConfigError: if labels or validation images are needed but missing, or if there are too few images.
        """
        self.prepare(data)
        name, interval = type(self).__name__, self.every_n_epochs
        if self.data:
            data = self.data
            data.setup("fit")
        if self.needs_labels and not data.labeled:
            if self.data:
                raise ConfigError(f"{name}.data: {data.name} has no labels, which {name} needs; give labelled data")
            instead = ", or give labelled data as its argument data" if _takes_data(type(self)) else ""
            raise ConfigError(f"{name}: the run's images have no labels, which {name} needs; remove {name}{instead}")
        self.check(len(data.datasets["train"]))
        if (interval or self.data) and "val" not in data.datasets:
            field = "data.val_split" if self.data else "every_n_epochs"
            remedy = "set it above 0" if self.data else "set data.val_split above 0, or remove every_n_epochs"
            raise ConfigError(f"{name}.{field}: there are no validation images to evaluate on; {remedy}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._cache = None

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._cache = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs = trainer.current_epoch + 1
        evaluated = self.every_n_epochs or self.data
        last = epochs == trainer.max_epochs or trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
        if evaluated and (last or (self.every_n_epochs and epochs % self.every_n_epochs == 0)):
            self._evaluate(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluate(trainer, pl_module, "test")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._cache = None  # a training set's embeddings may be large

    @torch.no_grad()
    def _evaluate(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        started, data = time.monotonic(), self.data or trainer.datamodule
        if self.needs_labels and not data.labeled:
            rank_zero_warn(f"{type(self).__name__} is skipped, because the images have no labels")
            return
        data.setup("fit")
        self.check(len(data.datasets["train"]))
        first = next(callback for callback in trainer.callbacks if isinstance(callback, Evaluator))
        first._cache = first._cache or FeatureCache(pl_module.device)
        own_data = data is trainer.datamodule
        student = network_view(pl_module, data, split, first._cache, own_data=own_data)
        try:
            result = self._evaluated(student)
            if self.teacher and split == "test" and student.teacher:
                result.add_teacher(self._evaluated(student.teacher))
        except ValueError as error:  # or a ConfigError; the other evaluators continue
            rank_zero_warn(f"{type(self).__name__} is skipped, because of an error: {error}")
            return
        if self.data and trainer.datamodule.labeled:  # distinguish them from results on the run's own images
            result.values = {f"{name}_{data.name}": value for name, value in result.values.items()}
        for name, value in result.values.items():
            # every rank has evaluated all images; a mean of their equal values would be rounded, a maximum is not
            full = name if "/" in name else f"{split}/{name}"
            pl_module.log(full, float(value), prog_bar=split == "val", sync_dist=True, reduce_fx="max")
        if split == "test":
            self.result, self.seconds = result, time.monotonic() - started

    def _evaluated(self, view: NetworkView) -> EvaluationResult:
        result = self.evaluate(view)
        if not isinstance(result, EvaluationResult):
            raise ConfigError(
                f"{type(self).__name__}.evaluate returned {type(result).__name__}; return EvaluationResult(values)"
            )
        return result


def _takes_data(kind: type[Evaluator]) -> bool:
    """Return whether the constructor of an evaluator's class accepts the argument `data`."""
    arguments = signature(kind).parameters.values()
    return any(argument.name == "data" or argument.kind is Parameter.VAR_KEYWORD for argument in arguments)


def _plain(value: Any) -> Any:
    """Return a setting as a value for JSON (data as its name), or None for an object that is not a setting."""
    if isinstance(value, ImageData):
        return value.name
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set) else value)]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if isinstance(value, str | int | float | bool) else None


def prepare_other_data(other: ImageData) -> None:
    """Download data that are only evaluated. Their training batch size has no effect, and is set to 1."""
    other.batch_size = 1
    other.prepare_data()


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return the share of N images for which the label has the highest of the scores N,K."""
    metric = top1(scores.shape[1])
    metric.sync_on_compute = False  # every rank has all images
    metric.to(labels.device).update(scores.to(labels.device), labels)
    return float(metric.compute())
