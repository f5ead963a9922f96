"""TeacherAgreement: log how similar student and teacher are, in each validation and test."""

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torchmetrics import Metric

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.evaluation.network_view import FeatureCache
from kd_lightning.functional import cosine
from kd_lightning.metrics import MeanOverImages, neighbor_overlap, top1
from kd_lightning.models import Features
from kd_lightning.runs.chance import NEIGHBORS, high_chance

MAX_IMAGES = 5000
"""Largest number of images for `<stage>/neighbors`, because all pairs of images are compared."""


class TeacherAgreement(Callback):
    """Logs the agreement of student and teacher on the evaluated images.

    `<stage>/agreement` is the share of images for which both networks predict the same class. If the student's
    classifier is not trained, two other values are logged instead. `<stage>/neighbors` is the share of an image's 10
    nearest neighbours that are the same in both embeddings. It is computed for the first 5,000 images. If there are so
    few images that unrelated embeddings share more than a tenth of the neighbours, a warning names this share. As in
    the evaluators, both networks run over these images without autocast. `<stage>/cosine` is the mean cosine between
    the vectors of student and teacher that the losses make similar.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, Metric] = {}
        self._warned: set[str] = set()
        """Stages for which the value by chance is already examined."""

    @staticmethod
    def names_of(method: Distiller) -> set[str]:
        """Return the names of the values that are logged for a method, without the stage."""
        return {*_metrics(method)} | (set() if method.trains_classifier else {"neighbors"})

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Distiller) -> None:
        self.metrics = {name: metric.to(pl_module.device) for name, metric in _metrics(pl_module).items()}

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
            if pair := pl_module.aligned_pair(outputs, teacher):
                self.metrics["cosine"].update(cosine(*(vectors.float() for vectors in pair)))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Distiller) -> None:
        self._log(trainer, pl_module, "val")

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Distiller) -> None:
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: Trainer, pl_module: Distiller, stage: str) -> None:
        if not pl_module.trains_classifier:
            embeddings = self._embeddings(trainer, pl_module, stage)
            overlap = neighbor_overlap(*embeddings, [NEIGHBORS])[NEIGHBORS]
            if stage not in self._warned and (line := high_chance(f"{stage}/neighbors", len(embeddings[0]))):
                rank_zero_warn(line)
            self._warned.add(stage)
            pl_module.log(f"{stage}/neighbors", overlap, prog_bar=True, sync_dist=True, reduce_fx="max")
        for name, metric in self.metrics.items():
            if metric.update_called:
                pl_module.log(f"{stage}/{name}", metric.compute(), prog_bar=True)
        self.metrics = {}

    def _embeddings(self, trainer: Trainer, pl_module: Distiller, stage: str) -> list[torch.Tensor]:
        """Return the embeddings of the first images in the student and in the teacher, on every rank."""
        data, cache = trainer.datamodule, FeatureCache(pl_module.device)
        images = data.datasets[stage]
        if len(images) > MAX_IMAGES:
            images = images.subset(torch.arange(MAX_IMAGES))
        with torch.no_grad():
            return [cache.read(network, data, images).embedding for network in (pl_module.deployed, pl_module.teacher)]


def _metrics(method: Distiller) -> dict[str, Metric]:
    if not method.trains_classifier:
        return {"cosine": MeanOverImages()}
    return {"agreement": top1(method.teacher.num_classes)} if method.has_task_classifier else {}
