"""The validation, test and prediction steps of a student."""

from typing import NamedTuple

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import passes
from kd_lightning.functional import cross_entropy
from kd_lightning.metrics import top1
from kd_lightning.models import Features, Network, Reads


class Prediction(NamedTuple):
    """Values that `predict` saves for the images of a batch."""

    logits: Tensor
    embedding: Tensor
    labels: Tensor
    indices: Tensor


def accuracies(classes: int) -> nn.ModuleDict:
    """Return one metric of top-1 accuracy for validation and one for test."""
    return nn.ModuleDict({stage: top1(classes) for stage in ("val", "test")})


class EvaluationSteps(LightningModule):
    """The validation, test and prediction steps of `StudentModule`."""

    student: Network
    accuracy: nn.ModuleDict
    trains_classifier: bool

    @property
    def evaluation_reads(self) -> Reads:
        """Features of the student that validation and test compute. Default: the logits."""
        return Reads(logits=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> Features:
        return self.evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> Features:
        return self.evaluate(batch, "test")

    def evaluate(self, batch: Batch, stage: str) -> Features:
        """Return the student's features of a batch, and log `<stage>/acc` and `<stage>/ce`.

        Nothing is logged if the data have no labels or the classifier is not trained.
        """
        student = passes.run(self.student, batch.images, self.evaluation_reads)
        if student.logits is not None and self.trains_classifier and self.has_labels:
            count = len(batch.images)
            self.accuracy[stage].update(student.logits, batch.labels)
            self.log(f"{stage}/acc", self.accuracy[stage], prog_bar=True, batch_size=count)
            entropy = cross_entropy(student.logits, batch.labels)
            self.log(f"{stage}/ce", entropy, on_epoch=True, sync_dist=True, batch_size=count)
        return student

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        student = passes.run(self.student, batch.images, Reads(embedding=True, logits=True))
        return Prediction(student.logits, student.embedding, batch.labels, batch.indices)

    @property
    def has_labels(self) -> bool:
        """Whether the run's data have labels."""
        return getattr(getattr(self.trainer, "datamodule", None), "labeled", True)
