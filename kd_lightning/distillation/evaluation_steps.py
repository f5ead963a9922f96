"""The validation, test and prediction steps of a student."""

from typing import NamedTuple

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import passes
from kd_lightning.functional import cross_entropy
from kd_lightning.metrics import MeanOverImages, top1
from kd_lightning.models import Features, Network, Reads


class Prediction(NamedTuple):
    """Values that `predict` saves for the images of a batch."""

    logits: Tensor
    embedding: Tensor
    labels: Tensor
    indices: Tensor


def evaluation_metrics(classes: int) -> nn.ModuleDict:
    """Return the metrics of validation and of test: top-1 accuracy and mean cross-entropy over all images."""
    return nn.ModuleDict(
        {stage: nn.ModuleDict({"acc": top1(classes), "ce": MeanOverImages()}) for stage in ("val", "test")}
    )


class EvaluationSteps(LightningModule):
    """The validation, test and prediction steps of `StudentModule`."""

    deployed: Network
    metrics: nn.ModuleDict
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
        """Return the features of the deployed network for a batch, and log `<stage>/acc` and `<stage>/ce`.

        Nothing is logged if the data have no labels or the classifier is not trained.
        """
        student = passes.run(self.deployed, batch.images, self.evaluation_reads)
        if student.logits is not None and self.trains_classifier and self.has_labels:
            metrics, count = self.metrics[stage], len(batch.images)
            metrics["acc"].update(student.logits, batch.labels)
            metrics["ce"].update(cross_entropy(student.logits, batch.labels, reduction="none"))
            self.log(f"{stage}/acc", metrics["acc"], prog_bar=True, batch_size=count)
            self.log(f"{stage}/ce", metrics["ce"], batch_size=count)
        return student

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        student = passes.run(self.deployed, batch.images, Reads(embedding=True, logits=True))
        return Prediction(student.logits, student.embedding, batch.labels, batch.indices)

    @property
    def has_labels(self) -> bool:
        """Whether the run's data have labels."""
        return getattr(getattr(self.trainer, "datamodule", None), "labeled", True)
