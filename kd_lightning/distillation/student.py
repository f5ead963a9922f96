"""StudentModule: the base class of all methods."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from kd_lightning import distributed, optim
from kd_lightning.batch import Batch
from kd_lightning.distillation import checks, passes
from kd_lightning.distillation.evaluation_steps import EvaluationSteps, evaluation_metrics
from kd_lightning.distillation.passes import FurtherNetwork, Images, Inputs, Seen
from kd_lightning.distillation.readers import is_read
from kd_lightning.distillation.run_hooks import RunHooks
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.functional import mixed_cross_entropy
from kd_lightning.models import Network, Reads


class StudentModule(EvaluationSteps, RunHooks, ABC, metaclass=checks.CheckedWhenBuilt):
    """Method that trains a student, by distillation, or without a teacher (`Supervised`, self-distillation).

    The base class runs the networks, adds the cross-entropy with the labels, and trains and evaluates the student.

    Args:
        student: Network that is trained.
        ce_weight: Weight of the cross-entropy with the labels; 0 disables it.
        optimizer: Optimizer of the student and of the method's additional layers (heads). Default: SGD with learning
            rate 0.05, momentum 0.9 and weight decay 5e-4.
        lr_scheduler: Schedule of the learning rate. Default: cosine decay to 0 over the whole run.
        lr_batch_size: Batch size for which the given learning rate is meant. The learning rate is scaled from this size
            to the number of images per optimizer step (data.batch_size x devices x trainer.accumulate_grad_batches).
            Default: no scaling.
        lr_scaling: Rule by which `lr_batch_size` scales the learning rate. `linear`: in proportion to the batch size
            (Goyal et al. 2017). `sqrt`: in proportion to its square root, for Adam and its variants.
        freeze: With `backbone`, only the student's classifier is trained. The rest of the student keeps its weights and
            is in eval mode. The student needs trained weights.
        probe_epochs: Number of first epochs that train only the classifier of a student with trained weights. The later
            epochs train all layers (linear probing, then fine-tuning; Kumar et al. 2022).
        head_lr_scale: Factor of the learning rate of the student's classifier. All other layers have the learning rate
            of the optimizer. A schedule keeps the ratio.
    """

    min_views: int = 1
    """Smallest value of `data.views` with which the losses can be computed: 2 if they read `batch.views[0]`."""
    one_label: bool = False
    """Whether the losses need images with one label each. If so, mixed images (`data.mixing`) raise an error."""
    min_positions: int = 1
    """Smallest number of positions (height times width) of the feature maps that the losses read."""
    min_batch_size: int = 1
    """Smallest number of images per batch. With fewer images, a loss cannot be computed or the student cannot learn."""
    normalises_vectors: bool = False
    """Whether a BatchNorm normalises one vector per image. Each device then needs `min_batch_size` images."""

    mixes_images: bool = False
    """Whether `inputs` mixes the images of a batch with one another."""

    gather: bool = True
    """Whether losses that compare samples use the samples of all devices. `Distiller` has an argument of this name."""

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
        freeze: Literal["backbone"] | None = None,
        probe_epochs: int = 0,
        head_lr_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if lr_batch_size is not None:
            check_positive(lr_batch_size=lr_batch_size)
        if student.dtype is not None:
            raise ConfigError(
                f"model.student.dtype: {student.dtype} is given, but only a teacher can have a dtype; set "
                "trainer.precision"
            )
        self.student, self.lr_batch_size, self.lr_scaling = student, lr_batch_size, lr_scaling
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        # DistributedDataParallel does not synchronise the tensors of this list
        self._ddp_params_and_buffers_to_ignore = ["epoch"]
        self.set_fine_tuning(freeze=freeze, probe_epochs=probe_epochs, head_lr_scale=head_lr_scale)
        groups = optim.groups(student.parameters(), self.classifier_parameters, head_lr_scale)
        self.trained_by = type(optim.build(optimizer, lr_scheduler, groups)[0]).__name__
        self.weights: dict[str, float] = {}
        """Weights of all terms. The key of each weight is the name of the argument that sets it."""
        self.set_weights(ce_weight=ce_weight)
        self.loss_terms: dict[str, Tensor] = {}
        """Weighted terms of the last step, detached."""
        self.recording = True
        self.recorded: dict[str, Tensor | float] = {}
        self.metrics = evaluation_metrics(student.num_classes)

    def set_weights(self, **weights: float) -> None:
        """Set the weights of terms as attributes that have the names of the arguments.

        Raises:
            ConfigError: if a weight is negative or not finite.
        """
        for name, weight in weights.items():
            checks.check_weight(name, weight)
            setattr(self, name, weight)
        self.weights |= weights

    def on_built(self) -> None:
        """Check the arguments and set the features that a step computes.

        The metaclass calls this function after `__init__` has returned.
        """
        self.reads_student = self.reads | Reads(logits=self.ce_weight != 0)
        """Features of the student that a step computes, for `losses`, the cross-entropy and the soft targets."""
        if not any(self.weights.values()):
            raise ConfigError(f"{', '.join(self.weights)}: all weights are 0, so nothing is trained; set one above 0")
        self.begin_fine_tuning()

    @property
    def reads(self) -> Reads:
        """Features that `losses` reads, according to the method's arguments."""
        return Reads()

    @property
    def further(self) -> Mapping[str, FurtherNetwork]:
        """Further networks to run in each step, by name. `losses` gets their features as arguments of these names."""
        return {}

    @property
    def exits(self) -> Mapping[int, nn.Module]:
        """Classifiers of the maps of earlier stages of the student, by the number of the stage. The last stage is 1.

        `EarlyExits` evaluates them. They are saved in checkpoints, but not with the student.
        """
        return {}

    def inputs(self, batch: Batch) -> Images | Inputs:
        """Return the input images of the networks; a list means one pass for each of its elements.

        The first N rows of the first pass must belong to the N images of the batch, in the same order. The
        cross-entropy and the soft targets use these rows.
        """
        return batch.images

    @property
    def makes_inputs(self) -> bool:
        """Whether the class of the method has an `inputs` of its own."""
        return type(self).inputs is not StudentModule.inputs

    @abstractmethod
    def losses(self, student: Seen, batch: Batch) -> dict[str, Tensor]:
        """Return the method's own terms by name: float scalars, already multiplied by their weights.

        The sum of all terms is minimised, and each term is logged as `train/<name>`. A term with the name `ce` replaces
        the cross-entropy that the base class adds.
        """

    def all_gather(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Gather each tensor N,... from all devices, and return its rows of all devices, with gradient.

        If `gather` is false, return the given tensors. A loss that compares samples across the batch must gather them
        first. A loss that is a mean over samples does not need to gather them.
        """
        return tuple(map(distributed.gather, tensors)) if self.gather else tensors

    def local_rows(self, rows: Tensor) -> Tensor:
        """Return the rows of this device from a tensor that `all_gather` returned."""
        return distributed.share(rows) if self.gather else rows

    def record(self, name: str, value: Callable[[], Tensor | float]) -> None:
        """Log a value of this step in addition to the terms. `value` is called only if this step logs."""
        if self.recording:
            found = value()
            self.recorded[name] = found.detach() if isinstance(found, Tensor) else found

    @property
    def epoch_share(self) -> Tensor | float:
        """Share of the run's epochs that are complete, 0 in the first epoch. It is for weights that change by epoch.

        If only `trainer.max_steps` ends the run, it is the share of the steps.
        """
        if self._trainer is None:
            return 0.0
        if self.trainer.max_epochs > 0:
            return (self.epoch - 1) / self.trainer.max_epochs
        return self.global_step / self.trainer.max_steps

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits N,K of the deployed network for images N,3,H,W (uint8, or float in [0, 1])."""
        return self.deployed(images)

    @property
    def needs_labels(self) -> bool:
        """Whether the terms read labels. If they do, data without labels raise an error."""
        return self.ce_weight != 0

    @property
    def trains_classifier(self) -> bool:
        """Whether a term reads the student's logits. If none does, no accuracy is logged."""
        return self.ce_weight != 0 or self.reads.logits

    def effective_batch_size(self, data: Any) -> int:
        """Return the number of images that a loss compares with one another."""
        return data.batch_size * data.world if self.gather else data.batch_size

    def check_batch_size(self, size: int, field: str = "data.batch_size") -> None:
        """Raise an error if `size` images are fewer than `min_batch_size`."""
        if size < self.min_batch_size:
            raise ConfigError(
                f"{field}: {type(self).__name__} needs at least {self.min_batch_size} images per batch, and {size} is "
                "too few"
            )

    def check_data(self, data: Any) -> None:
        """Raise an error if the terms cannot be computed on the data. The check runs before any image is read.

        Raises:
            ConfigError: in this case. The message names the field.
        """
        checks.check_labels(self, data)
        checks.check_mixing(self, data)
        checks.check_views(self, data)
        self.check_batch_size(data.batch_size if self.normalises_vectors else self.effective_batch_size(data))
        self.check_epochs(data.trainer)
        self.check_durations(data.trainer)

    def on_data_ready(self, data: Any) -> None:
        """Read what the method needs of the data, which are ready: their splits are in `data.datasets`.

        A run calls this function in every process before its first step, and before the dry step that looks for errors.
        In some processes it is called twice.
        """
        data.repeats_order = data.repeats_order or self.mixes_images

    def training_terms(self, batch: Batch) -> dict[str, Tensor]:
        """Run the networks on their input images and return all weighted terms of the current stage by name."""
        with self.only_trained():
            return self.weighted_terms(batch._replace(places=None), *self.stored(batch))

    def stored(self, batch: Batch) -> tuple[Seen, ...]:
        """Return the features of frozen networks that need not be computed in this step, for `run_networks`."""
        return ()

    def weighted_terms(self, batch: Batch, *stored: Seen) -> dict[str, Tensor]:
        """Return what `training_terms` returns. `Speed` may replace this function by a compiled function.

        The function changes no `requires_grad`, because torch.compile does not support it.

        Args:
            batch: Batch of the step.
            *stored: Result of `stored`.
        """
        inputs = passes.as_inputs(self.inputs(batch))
        features = self.run_networks(inputs, *stored)
        checks.check_positions(self, *features)
        further = {
            name: passes.run(declared.network, inputs.further.get(name, inputs.student), declared.reads)
            for name, declared in self.further.items()
        }
        terms = checks.check_returned(self, self.losses(*features, batch, **further))
        return self.with_base_terms(terms, *features, batch)

    def run_networks(self, inputs: Inputs) -> list[Seen]:
        """Return a list with the features of the student and, if there is a teacher, the features of the teacher."""
        return [passes.run(self.student, inputs.student, self.reads_student)]

    def with_base_terms(self, terms: dict[str, Tensor], student: Seen, batch: Batch) -> dict[str, Tensor]:
        """Return the given terms together with the weighted cross-entropy."""
        if not self.ce_weight or "ce" in terms or not self.has_base_terms:
            return terms
        return {"ce": self.ce_weight * self.cross_entropy(passes.first(student).logits, batch), **terms}

    def cross_entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of the first N rows of the logits with the N labels, and record `train/acc`.

        A mixed image (`data.mixing`) is made of two images and has two labels. Each label is weighted by the
        share of its image in the mixture.
        """
        logits = logits[: len(batch.labels)]
        self.record("acc", lambda: (logits.detach().argmax(dim=1) == batch.labels).float().mean())
        return mixed_cross_entropy(logits, batch.labels, batch.partner_labels, batch.mix_lambda)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.recording = is_read(self.trainer, batch_idx)
        self.recorded.clear()
        terms = self.training_terms(batch)
        self.loss_terms = {name: term.detach() for name, term in terms.items()}
        total = self.with_zero_gradients(torch.stack(list(terms.values())).sum())
        if self.recording:
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            values = {**self.recorded, **self.loss_terms, "loss": total.detach(), "lr": rate}
            self.log_dict({name if "/" in name else f"train/{name}": value for name, value in values.items()})
        share = self.share_of_step(batch_idx)
        return total if share == 1 else total * share
