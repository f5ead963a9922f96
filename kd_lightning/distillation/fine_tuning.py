"""FineTuning: train only the student's classifier, in all or the first epochs, or with a learning rate of its own."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from kd_lightning.distillation.stages import Stage, Stages
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.models import Network, classifier


class FineTuning(Stages):
    """Base class of methods whose student may be fine-tuned: a classifier is added to a trained backbone.

    The backbone is the whole student except its classifier. A backbone that is not trained is in eval mode, so that the
    statistics of its BatchNorm layers do not change.
    """

    student: Network
    trains_classifier: bool
    freeze: Literal["backbone"] | None
    probe_epochs: int
    head_lr_scale: float

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
            ConfigError: if the student has no classifier, no weights, if no term trains its classifier, or if the
                method has stages of its own.
        """
        given = {"freeze": self.freeze, "probe_epochs": self.probe_epochs, "head_lr_scale": self.head_lr_scale != 1}
        field = next((f"model.{name}" for name, value in given.items() if value), None)
        if field is None:
            return
        if field != "model.head_lr_scale" and self.has_own_stages:
            raise ConfigError(
                f"{field}: {type(self).__name__} has stages of its own (first_stage), which train the backbone; remove "
                f"{field}"
            )
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

    @property
    def training_stages(self) -> Sequence[Stage]:
        if not self.probe_epochs:
            return ()
        heads = classifier.layers(self.student.model)
        count = sum(value.numel() for value in self.classifier_parameters)
        only = f"only the classifier of the student ({count:,} parameters)"
        probing = Stage("classifier", only, idle=[self.student], trained=heads)
        return probing, Stage("all layers", "all layers of the student")

    @property
    def first_stage_field(self) -> str:
        return "probe_epochs" if self.probe_epochs else "first_stage"

    @property
    def _instead(self) -> str:
        return ", or set model.freeze to backbone" if self.probe_epochs else ""

    def train(self, mode: bool = True) -> "FineTuning":
        """Set the mode as in torch. A backbone that is not trained stays in eval mode."""
        super().train(mode)
        if mode and getattr(self, "freeze", None):
            self.student.eval()
            for layer in classifier.layers(self.student.model):
                layer.train()
        return self
