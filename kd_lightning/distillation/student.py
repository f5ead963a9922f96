"""StudentModule: a student, the features and losses of a training step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from kd_lightning import optim
from kd_lightning.batch import Batch
from kd_lightning.distillation import checks, passes
from kd_lightning.distillation.evaluation_steps import EvaluationSteps, accuracies
from kd_lightning.distillation.passes import FurtherNetwork, Images, Inputs, Seen
from kd_lightning.distillation.readers import is_read
from kd_lightning.distillation.run_hooks import RunHooks
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.functional import mixed_cross_entropy
from kd_lightning.models import Network, Reads


class StudentModule(EvaluationSteps, RunHooks, ABC, metaclass=checks.CheckedWhenBuilt):
    """Base of every method: runs the networks, adds the cross-entropy with the labels, trains and evaluates.

    Args:
        student: the network that is trained.
        ce_weight: weight of the cross-entropy with the labels; 0 needs no labels.
        optimizer: default: SGD, learning rate 0.05, momentum 0.9, weight decay 5e-4.
        lr_scheduler: schedule of the learning rate; default: cosine to zero over the run.
        lr_batch_size: the batch size that the learning rate is given for; the rate is then scaled to the batch size of
            the run's steps (data.batch_size x devices x trainer.accumulate_grad_batches). Default: no scaling.
        lr_scaling: scale in proportion to the batch (`linear`: Goyal et al. 2017) or to its root (`sqrt`, for Adam and
            its variants).
    """

    def __init__(
        self,
        *,
        student: Network,
        ce_weight: float = 1.0,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(
            parameters, lr=0.05, momentum=0.9, weight_decay=5e-4
        ),
        lr_scheduler: LRSchedulerCallable = lambda optimizer: optim.WarmupCosine(optimizer),
        lr_batch_size: int | None = None,
        lr_scaling: Literal["linear", "sqrt"] = "linear",
    ) -> None:
        super().__init__()
        if lr_batch_size is not None:
            check_positive(lr_batch_size=lr_batch_size)
        if student.dtype is not None:
            raise ConfigError("student.dtype: it is for the teacher; the student's is trainer.precision")
        self.student, self.lr_batch_size, self.lr_scaling = student, lr_batch_size, lr_scaling
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.trained_by = optim.try_to_build(optimizer, lr_scheduler, student.parameters())
        self.weights: dict[str, float] = {}
        """The weights of all terms, by their arguments' names."""
        self.set_weights(ce_weight=ce_weight)
        self.loss_terms: dict[str, Tensor] = {}
        """The weighted terms of the last step, detached."""
        self.recording, self.recorded = True, {}
        self.accuracy = accuracies(student.num_classes)

    def set_weights(self, **weights: float) -> None:
        """Set the weights of terms as attributes.

        Raises:
            ConfigError: for a weight that is negative or not finite.
        """
        for name, weight in weights.items():
            checks.check_weight(name, weight)
            setattr(self, name, weight)
        self.weights |= weights

    def on_built(self) -> None:
        """Check what the arguments of all classes come to; called when the outermost `__init__` has returned."""
        self.reads_student = self.reads | Reads(logits=self.ce_weight != 0)
        """The student's features that a step computes: what `losses` and the base's terms read."""
        if not any(self.weights.values()):
            raise ConfigError(f"{', '.join(self.weights)}: all are 0, and nothing would be learnt")

    @property
    def reads(self) -> Reads:
        """The features that `losses` reads, made from the method's arguments."""
        return Reads()

    @property
    def further(self) -> Mapping[str, FurtherNetwork]:
        """Further networks that the base runs each step, by the name under which `losses` gets their features."""
        return {}

    def inputs(self, batch: Batch) -> Images | Inputs:
        """Return the images that the networks look at; a list is one pass for each element.

        The first rows of the first pass belong to the batch's images: the base's own terms read these.
        """
        return batch.images

    @abstractmethod
    def losses(self, student: Seen, batch: Batch) -> dict[str, Tensor]:
        """Return the method's own weighted terms by name, float scalars.

        The sum of all terms is minimised, and each is logged as `train/<name>`. A term called `ce` takes the place of
        the base's.
        """

    def record(self, name: str, value: Callable[[], Tensor]) -> None:
        """Log a value of this step beside the terms; it is computed only if someone reads it."""
        if self.recording:
            self.recorded[name] = value().detach()

    def forward(self, images: Tensor) -> Tensor:
        """Return the student's logits N,K of images N,3,H,W (uint8, or float in [0, 1])."""
        return self.student(images)

    @property
    def needs_labels(self) -> bool:
        """Whether the terms read labels; data without any are an error then."""
        return self.ce_weight != 0

    @property
    def trains_classifier(self) -> bool:
        """Whether a term reads the student's logits; otherwise no accuracy is logged."""
        return self.ce_weight != 0 or self.reads.logits

    def check_data(self, data: Any) -> None:
        """Raise an error, before any image is read, for data that the terms cannot be computed on.

        Raises:
            ConfigError: naming the field.
        """
        checks.check_labels(self, data)

    def training_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Run each network once and return all weighted terms by name."""
        inputs = passes.as_inputs(self.inputs(batch))
        seen = self.run_networks(inputs)
        further = {
            name: passes.run(each.network, inputs.further.get(name, inputs.student), each.reads)
            for name, each in self.further.items()
        }
        return self.with_base_terms(self.losses(*seen, batch, **further), *seen, batch)

    def run_networks(self, inputs: Inputs) -> list[Seen]:
        """Return the features of the student (and of the teacher, where there is one)."""
        return [passes.run(self.student, inputs.student, self.reads_student)]

    def with_base_terms(self, terms: dict[str, Tensor], student: Seen, batch: Batch) -> dict[str, Tensor]:
        """Return a method's terms with the weighted cross-entropy before them."""
        if not self.ce_weight or "ce" in terms:
            return terms
        return {"ce": self.ce_weight * self.cross_entropy(passes.first(student).logits, batch), **terms}

    def cross_entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of the first N rows of logits with the labels, and record `train/acc`.

        For mixed images (`data.mixing`), both labels count by their shares.
        """
        logits = logits[: len(batch.labels)]
        self.record("acc", lambda: (logits.detach().argmax(dim=1) == batch.labels).float().mean())
        return mixed_cross_entropy(logits, batch.labels, batch.partner_labels, batch.mix_lambda)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.recording = is_read(self.trainer, batch_idx)
        self.recorded.clear()
        terms = self.training_terms(batch)
        self.loss_terms = {name: term.detach() for name, term in terms.items()}
        total = torch.stack(list(terms.values())).sum()
        if self.recording:
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            values = {**self.recorded, **self.loss_terms, "loss": total.detach(), "lr": rate}
            self.log_dict({name if "/" in name else f"train/{name}": value for name, value in values.items()})
        return total
