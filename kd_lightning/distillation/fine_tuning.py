"""FineTuning: train only the student's classifier, in all or the first epochs, or with a learning rate of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from kd_lightning.distillation.deployment import Deployment
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.models import Network, classifier


class FineTuning(Deployment):
    """Base class of methods whose student may be fine-tuned: a classifier is added to a trained backbone.

    The backbone is the whole student except its classifier. A backbone that is not trained is in eval mode, so that the
    statistics of its BatchNorm layers do not change.
    """

    student: Network
    trains_classifier: bool
    freeze: Literal["backbone"] | None
    probe_epochs: int
    head_lr_scale: float
    _probing: bool = False

    def set_fine_tuning(self, *, freeze: Literal["backbone"] | None, probe_epochs: int, head_lr_scale: float) -> None:
        """Set the arguments of fine-tuning.

        Raises:
            ConfigError: if a value is out of range, or if two arguments contradict each other.
        """
        check_positive(**{"model.head_lr_scale": head_lr_scale})
        if probe_epochs < 0:
            raise ConfigError(f"model.probe_epochs: {probe_epochs} is negative; 0 trains all layers from the start")
        if freeze and probe_epochs:
            raise ConfigError(
                "model.probe_epochs: the frozen backbone (model.freeze) is never trained; give only one of the two"
            )
        if freeze and head_lr_scale != 1:
            raise ConfigError(
                f"model.head_lr_scale: {head_lr_scale:g} is given, but a frozen backbone (model.freeze) has no "
                "learning rate; set the rate of the classifier as model.optimizer.lr"
            )
        self.freeze, self.probe_epochs, self.head_lr_scale = freeze, probe_epochs, head_lr_scale

    @property
    def classifier_parameters(self) -> list[Tensor]:
        """Parameters of the student's classifier, or of all its classifiers."""
        return [value for layer in classifier.layers(self.student.model) for value in layer.parameters()]

    @property
    def backbone_parameters(self) -> list[Tensor]:
        """Parameters of the student except those of its classifier."""
        head = {id(value) for value in self.classifier_parameters}
        return [value for value in self.student.parameters() if id(value) not in head]

    def begin_fine_tuning(self) -> None:
        """Check that there is a classifier to train, and freeze the backbone if it is never trained.

        Raises:
            ConfigError: if the student has no classifier, no weights, or if no term trains its classifier.
        """
        given = {"freeze": self.freeze, "probe_epochs": self.probe_epochs, "head_lr_scale": self.head_lr_scale != 1}
        field = next((f"model.{name}" for name, value in given.items() if value), None)
        if field is None:
            return
        if not self.trains_classifier or not self.classifier_parameters:
            reason = "no term reads its logits" if self.classifier_parameters else "the student has none"
            raise ConfigError(
                f"{field}: {type(self).__name__} trains no classifier, because {reason}; remove {field}, or choose "
                "Supervised or another method that trains a classifier"
            )
        if field != "model.head_lr_scale" and not self.student.has_weights:
            raise ConfigError(
                f"{field}: the backbone of {self.student.name} has random weights; give trained weights as "
                "model.student.checkpoint or model.student.pretrained"
            )
        if self.freeze:
            for value in self.backbone_parameters:
                value.requires_grad_(False)
            self.train()

    def check_epochs(self, trainer: Any) -> None:
        """Raise an error if the epochs of `probe_epochs` are the whole run, or if the strategy does not allow them.

        Raises:
            ConfigError: in both cases.
        """
        if not self.probe_epochs or trainer is None:
            return
        if trainer.max_epochs not in (None, -1) and self.probe_epochs >= trainer.max_epochs:
            raise ConfigError(
                f"model.probe_epochs: {self.probe_epochs} of {trainer.max_epochs} epochs (trainer.max_epochs) would "
                "never train the backbone; give fewer epochs, or set model.freeze to backbone"
            )
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            raise ConfigError(
                "model.probe_epochs: the strategy distributes the weights of the student, which must stay complete; "
                "set trainer.strategy to ddp"
            )

    def train(self, mode: bool = True) -> "FineTuning":
        """Set the mode as in torch. A backbone that is not trained stays in eval mode."""
        super().train(mode)
        if mode and (getattr(self, "freeze", None) or self._probing):
            self.student.eval()
            for layer in classifier.layers(self.student.model):
                layer.train()
        return self

    def start_epoch(self) -> None:
        """Choose what this epoch trains, and say when it changes."""
        if not self.probe_epochs:
            return
        before, self._probing = self._probing, self.current_epoch < self.probe_epochs
        self.train()
        if self._probing and not before:
            count = sum(value.numel() for value in self.classifier_parameters)
            last = self.probe_epochs
            epochs = f"epochs 1 to {last} train" if last > 1 else "epoch 1 trains"
            rank_zero_info(f"probe_epochs: {epochs} only the classifier of the student ({count:,} parameters)")
        elif before and not self._probing:
            rank_zero_info(
                f"probe_epochs: all layers of the student are trained from epoch {self.current_epoch + 1} on"
            )

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Within this context, the student's backbone gets no gradient if this epoch trains only the classifier.

        `requires_grad` is false only within this context. The optimizer and DistributedDataParallel therefore have the
        same parameters in all epochs.
        """
        trained = [value for value in self.backbone_parameters if value.requires_grad] if self._probing else []
        try:
            for value in trained:
                value.requires_grad_(False)
            yield
        finally:
            for value in trained:
                value.requires_grad_(True)

    def with_zero_gradients(self, total: Tensor) -> Tensor:
        """Return the loss, to which 0 is added so that each parameter of an untrained backbone gets a gradient of 0.

        DistributedDataParallel waits for a gradient of each parameter.
        """
        if not self._probing:
            return total
        trained = (value for value in self.backbone_parameters if value.requires_grad)
        return sum((value.reshape(-1)[:0].sum() for value in trained), total)

    def drop_gradients(self) -> None:
        """Remove the gradients of 0, so that neither momentum nor weight decay changes an untrained backbone."""
        if self._probing:
            for value in self.backbone_parameters:
                value.grad = None
