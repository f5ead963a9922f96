"""StudentModule: a student, its optimizer, the one training step, and how it is evaluated."""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.functional import cross_entropy
from kd_lightning.metrics import top1
from kd_lightning.models import Network, checkpoints
from kd_lightning.optim import RunSchedule, WarmupCosine, scale_rates
from kd_lightning.randomness import reseed


class Prediction(NamedTuple):
    """What `predict` keeps of a batch."""

    logits: Tensor
    embedding: Tensor
    labels: Tensor
    indices: Tensor


class StudentModule(LightningModule, ABC):
    """Base of every method: trains and evaluates a student; a method says its losses and nothing else.

    Args:
        student: the network that is trained.
        optimizer: what trains it; default: SGD, learning rate 0.05, momentum 0.9, weight decay 5e-4.
        lr_scheduler: schedule of the learning rate; default: cosine to zero over the run.
        lr_batch_size: the batch size that the learning rate is given for: it is then scaled to what the run's steps
            learn from (data.batch_size x devices x trainer.accumulate_grad_batches); default: it stands as given.
        lr_scaling: in proportion to the batch (`linear`: Goyal et al. 2017) or to its root (`sqrt`, for Adam and kin).
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    """What the losses read of the teacher: logits, maps, tokens, embedding."""
    unread = False
    """Whether nobody reads what is logged now."""

    def __init__(
        self,
        *,
        student: Network,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(
            parameters, lr=0.05, momentum=0.9, weight_decay=5e-4
        ),
        lr_scheduler: LRSchedulerCallable = lambda optimizer: WarmupCosine(optimizer),
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
        self._try_optimizer()
        self.terms: dict[str, Tensor] = {}
        """The losses of the last step, detached."""
        self.accuracy = nn.ModuleDict({stage: top1(student.num_classes) for stage in ("val", "test")})

    def _try_optimizer(self) -> None:
        """Builds optimizer and schedule once, so that a wrong setting shows before a run is opened."""
        try:
            optimizer = self.optimizer(self.student.parameters())
            self.lr_scheduler(optimizer)
        except (ValueError, TypeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"model.optimizer, model.lr_scheduler: {error}") from error
        self._trained_by = type(optimizer).__name__

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms by name, float scalars: their sum is minimised, each is logged as `train/<name>`."""

    def forward(self, images: Tensor) -> Tensor:
        """The student's logits N,K of images N,3,H,W (uint8, or float in [0, 1])."""
        return self.student(images)

    @property
    def needs_labels(self) -> bool:
        """Whether the losses read labels; data without any are refused then."""
        return True

    def cross_entropy(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the student's logits N,K with the labels, mean over the batch; logs `train/acc` as well.

        Of mixed images (`data.mixing`), both labels count by their shares.
        """
        self.log("train/acc", (logits.detach().argmax(dim=1) == batch.labels).float().mean())
        if batch.mix_lambda is None:
            return cross_entropy(logits, batch.labels)
        own, partners = (
            cross_entropy(logits, labels, reduction="none") for labels in (batch.labels, batch.partner_labels)
        )
        return torch.lerp(partners, own, batch.mix_lambda).mean()

    @property
    def trains_classifier(self) -> bool:
        """Whether the student's logits are trained; where they are not, no accuracy is logged."""
        return self.needs_labels or "logits" in self.reads

    def check_data(self, data: Any) -> None:
        """Refuses, before they are read, data that the losses cannot be computed on.

        Raises:
            ConfigError: naming the field.
        """
        if self.needs_labels and not data.labeled:
            remedy = "set model.ce_weight to 0, or choose" if hasattr(self, "ce_weight") else "choose"
            raise ConfigError(
                f"data.labeled: {type(self).__name__} reads labels and there are none; {remedy} a method without labels"
            )

    def on_fit_start(self) -> None:
        self.train()  # Lightning would go on in eval mode where someone has looked at the student in it

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """What a step draws (dropout) depends on its place alone, so that a run that goes on draws the same."""
        seed = getattr(getattr(self.trainer, "datamodule", None), "seed", 0)
        reseed(seed, self.current_epoch, batch_idx, self.global_rank)

    def on_after_backward(self) -> None:
        """Says once what no loss reaches: it stays as it was drawn."""
        if self.trainer.global_step or self.trainer.fit_loop.epoch_loop.batch_idx:
            return
        idle = [name for name, value in self.named_parameters() if value.requires_grad and value.grad is None]
        if idle:
            rank_zero_warn(
                f"model: {type(self).__name__} trains all but {len(idle)} parameters, which no loss reaches and which "
                f"stay as they were drawn: {', '.join(idle[:3])}"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.unread = not self._is_read(batch_idx)
        losses = self.losses(batch)
        self.terms = {name: loss.detach() for name, loss in losses.items()}
        self.log_dict({f"train/{name}": loss for name, loss in self.terms.items()})
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total.detach())
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        self.unread = False
        return total

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """As Lightning's, which takes its time, but for a training step's plain values that nobody reads."""
        of_steps = isinstance(value, Tensor | float) and not (kwargs.get("on_epoch") or kwargs.get("sync_dist"))
        if args or not (self.unread and of_steps):
            super().log(name, value, *args, **kwargs)

    def _is_read(self, batch_idx: int) -> bool:
        """Whether a logger, the bar, an epoch's end (or beginning) or a foreign callback reads this step's values."""
        trainer = self.trainer
        if any(not type(callback).__module__.startswith("kd_lightning.") for callback in trainer.callbacks):
            return True
        bar = trainer.progress_bar_callback
        refreshes = bar is not None and bar.is_enabled and (batch_idx + 1) % max(bar.refresh_rate, 1) == 0
        logs = (trainer.global_step + 1) % max(trainer.log_every_n_steps, 1) == 0
        return refreshes or logs or batch_idx == 0 or trainer.is_last_batch or trainer.should_stop

    def evaluate(self, batch: Batch, stage: str) -> None:
        """Updates the metrics of a stage (`val` or `test`) with a batch."""
        self.update_accuracy(self.student(batch.images), batch, stage)

    def update_accuracy(self, logits: Tensor, batch: Batch, stage: str) -> None:
        """Updates the metrics that compare the student's logits N,K with the labels, where there are any."""
        if not self._labeled:
            return
        count = len(batch.images)
        self.accuracy[stage].update(logits, batch.labels)
        self.log(f"{stage}/acc", self.accuracy[stage], prog_bar=True, batch_size=count)
        entropy = cross_entropy(logits, batch.labels)
        self.log(f"{stage}/ce", entropy, on_epoch=True, sync_dist=True, batch_size=count)

    @property
    def _labeled(self) -> bool:
        return getattr(getattr(self.trainer, "datamodule", None), "labeled", True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        seen = self.student.features(batch.images, embedding=True, logits=True)
        return Prediction(seen.logits, seen.embedding, batch.labels, batch.indices)

    @property
    def global_batch(self) -> int:
        """How many images a step of the optimizer learns from: all devices', all accumulated batches'."""
        data, trainer = self.trainer.datamodule, self.trainer
        return data.batch_size * data.world * trainer.accumulate_grad_batches

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer over exactly the parameters that require a gradient: student and adapters, never a teacher."""
        optimizer = self.optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])
        if self.lr_batch_size:
            ratio = self.global_batch / self.lr_batch_size
            scale_rates(optimizer, ratio if self.lr_scaling == "linear" else math.sqrt(ratio))
        schedule = self.lr_scheduler(optimizer)
        once_a_step = isinstance(schedule, RunSchedule)
        if once_a_step:
            self.trainer.fit_loop.setup_data()  # else a run that max_steps ends does not know its epochs' length
            total_steps = self.trainer.estimated_stepping_batches
            if math.isinf(total_steps):
                raise ConfigError(
                    "trainer.max_epochs: -1 has no end, and the schedule needs one; give trainer.max_steps"
                )
            steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
            schedule.begin(total_steps, steps_per_epoch)
        step = {
            "scheduler": schedule,
            "interval": "step" if once_a_step else "epoch",
            "monitor": getattr(schedule, "monitor", None),
        }
        return {"optimizer": optimizer, "lr_scheduler": step}

    def student_facts(self) -> dict[str, Any]:
        """What a file must say beside the student's weights: `Network.facts`, and its classes' names."""
        names = getattr(getattr(self.trainer, "datamodule", None), "class_names", [])
        return {**self.student.facts(), "class_names": list(names)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["network"] = self.student_facts()
        checkpoint["trained_by"] = self._trained_by

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        before = checkpoint.get("trained_by", self._trained_by)
        if self._trainer is not None and self._trainer.state.fn == "fit" and before != self._trained_by:
            raise ConfigError(
                f"model.optimizer: the checkpoint is one of {before}, and {self._trained_by} cannot go on with its "
                f"state; choose {before}, or begin with the student alone (model.student.checkpoint)"
            )
        differs = checkpoints.mismatch(self.state_dict(), checkpoint["state_dict"])
        if differs:
            written_by = checkpoint.get("network", {}).get("name", "another network")
            raise ConfigError(
                f"ckpt_path: the checkpoint does not fit {type(self).__name__} with student {self.student.name} "
                f"(its student is {written_by}): {differs}"
            )
