"""StudentModule: the base class of all methods."""

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
    """Base class of all methods: runs the networks, adds the cross-entropy with the labels, trains and evaluates.

    Args:
        student: Network that is trained.
        ce_weight: Weight of the cross-entropy with the labels; 0 disables it.
        optimizer: Optimizer of the student and the method's adapters. Default: SGD with learning rate 0.05, momentum
            0.9 and weight decay 5e-4.
        lr_scheduler: Schedule of the learning rate. Default: cosine decay to 0 over the run.
        lr_batch_size: Batch size for which the learning rate is given. The learning rate is scaled from this size to
            the batch size of the run's steps (data.batch_size x devices x trainer.accumulate_grad_batches). Default:
            no scaling.
        lr_scaling: Rule by which `lr_batch_size` scales the learning rate. `linear`: in proportion to the batch size
            (Goyal et al. 2017). `sqrt`: in proportion to its square root, for Adam and its variants.
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
            raise ConfigError(
                f"student.dtype: {student.dtype} is given, but only a teacher can have a dtype; set trainer.precision"
            )
        self.student, self.lr_batch_size, self.lr_scaling = student, lr_batch_size, lr_scaling
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.trained_by = optim.try_to_build(optimizer, lr_scheduler, student.parameters())
        self.weights: dict[str, float] = {}
        """Weights of all terms, by the names of their arguments."""
        self.set_weights(ce_weight=ce_weight)
        self.loss_terms: dict[str, Tensor] = {}
        """Weighted terms of the last step, detached."""
        self.recording, self.recorded = True, {}
        self.accuracy = accuracies(student.num_classes)

    def set_weights(self, **weights: float) -> None:
        """Set the weights of terms as attributes of these names.

        Raises:
            ConfigError: for a weight that is negative or not finite.
        """
        for name, weight in weights.items():
            checks.check_weight(name, weight)
            setattr(self, name, weight)
        self.weights |= weights

    def on_built(self) -> None:
        """Check the arguments and set the features that a step reads; called after the outermost `__init__`."""
        self.reads_student = self.reads | Reads(logits=self.ce_weight != 0)
        """Features of the student that a step computes, for `losses` and the base's terms."""
        if not any(self.weights.values()):
            raise ConfigError(f"{', '.join(self.weights)}: all weights are 0, so nothing is trained; set one above 0")

    @property
    def reads(self) -> Reads:
        """Features that `losses` reads, according to the method's arguments."""
        return Reads()

    @property
    def further(self) -> Mapping[str, FurtherNetwork]:
        """Further networks that the base runs in each step; their names are the arguments of `losses`."""
        return {}

    def inputs(self, batch: Batch) -> Images | Inputs:
        """Return the input images of the networks; a list means one pass for each of its elements.

        The first rows of the first pass must belong to the images of the batch, because the base's terms read them.
        """
        return batch.images

    @abstractmethod
    def losses(self, student: Seen, batch: Batch) -> dict[str, Tensor]:
        """Return the method's own terms by name: float scalars, already multiplied by their weights.

        The sum of all terms is minimised, and each is logged as `train/<name>`. A term with the name `ce` replaces the
        cross-entropy of the base class.
        """

    def record(self, name: str, value: Callable[[], Tensor]) -> None:
        """Log a value of this step in addition to the terms; it is computed only if this step logs."""
        if self.recording:
            self.recorded[name] = value().detach()

    def forward(self, images: Tensor) -> Tensor:
        """Return the student's logits N,K of images N,3,H,W (uint8, or float in [0, 1])."""
        return self.student(images)

    @property
    def needs_labels(self) -> bool:
        """Whether the terms read labels; if so, data without labels raise an error."""
        return self.ce_weight != 0

    @property
    def trains_classifier(self) -> bool:
        """Whether a term reads the student's logits; if not, no accuracy is logged."""
        return self.ce_weight != 0 or self.reads.logits

    def check_data(self, data: Any) -> None:
        """Raise an error if the terms cannot be computed on the data; called before any image is read.

        Raises:
            ConfigError: for such data; the message names the field.
        """
        checks.check_labels(self, data)

    def training_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Run each network once and return all weighted terms by name."""
        inputs = passes.as_inputs(self.inputs(batch))
        features = self.run_networks(inputs)
        further = {
            name: passes.run(declared.network, inputs.further.get(name, inputs.student), declared.reads)
            for name, declared in self.further.items()
        }
        return self.with_base_terms(self.losses(*features, batch, **further), *features, batch)

    def run_networks(self, inputs: Inputs) -> list[Seen]:
        """Return the features of the student, followed by those of the teacher if there is one."""
        return [passes.run(self.student, inputs.student, self.reads_student)]

    def with_base_terms(self, terms: dict[str, Tensor], student: Seen, batch: Batch) -> dict[str, Tensor]:
        """Return the terms with the weighted cross-entropy before them."""
        if not self.ce_weight or "ce" in terms:
            return terms
        return {"ce": self.ce_weight * self.cross_entropy(passes.first(student).logits, batch), **terms}

    def cross_entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of the logits' first N rows with the N labels, and record `train/acc`.

        For mixed images (`data.mixing`), the two labels are weighted by the shares of their images.
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
