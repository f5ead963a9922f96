"""TeacherAgreement: log how similar student and teacher are, in each validation and test."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from torchmetrics import MeanMetric, Metric

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.functional import cosine
from kd_lightning.metrics import NeighborOverlap, top1
from kd_lightning.models import Features


class TeacherAgreement(Callback):
    """Logs the agreement of student and teacher on the evaluated images.

    `<stage>/agreement` is the share of images for which both networks predict the same class. If the student's
    classifier is not trained, two other values are logged instead. `<stage>/neighbors` is the share of an image's
    nearest neighbours that are the same in both embeddings. `<stage>/cosine` is the mean cosine between the vectors of
    student and teacher that the losses make similar.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}

    @staticmethod
    def metrics_of(method: Distiller) -> dict[str, Metric]:
        """Return new metrics for a method, by the names under which they are logged."""
        if not method.trains_classifier:
            return {"neighbors": NeighborOverlap(), "cosine": MeanMetric()}
        return {"agreement": top1(method.teacher.num_classes)} if method.has_task_classifier else {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Distiller) -> None:
        self.metrics = {name: metric.to(pl_module.device) for name, metric in self.metrics_of(pl_module).items()}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Distiller, outputs: Features, batch: Batch, *args: Any
    ) -> None:
        if not self.metrics:
            return
        with trainer.precision_plugin.val_step_context():
            teacher = pl_module.teacher_features(batch.images, pl_module.evaluation_reads)
            if "agreement" in self.metrics:
                self.metrics["agreement"].update(outputs.logits, teacher.logits.argmax(dim=1))
                return
            self.metrics["neighbors"].update(outputs.embedding, teacher.embedding)
            if pair := pl_module.aligned_pair(outputs, teacher):
                self.metrics["cosine"].update(cosine(*(vectors.float() for vectors in pair)))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Distiller) -> None:
        self._log(pl_module, "val")

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Distiller) -> None:
        self._log(pl_module, "test")

    def _log(self, pl_module: Distiller, stage: str) -> None:
        for name, metric in self.metrics.items():
            if metric.update_called:
                pl_module.log(f"{stage}/{name}", metric.compute(), prog_bar=True)
        self.metrics = {}
