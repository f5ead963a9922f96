"""SimKD: the teacher's classifier is reused for the student (Chen et al. 2022)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller, checks
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.functional import full_precision, kd_loss, match_spatial
from kd_lightning.models import Features, Network, Reads
from kd_lightning.models.composites import assembled
from kd_lightning.models.composites.reused_classifier import READS

mean_squared_error = full_precision(F.mse_loss)
"""Mean squared difference of two maps N,C,H,W, computed in float32 (Eq. 3, averaged over all elements)."""


class SimKD(Distiller):
    """The teacher's classifier for the student (Chen et al. 2022, "Knowledge Distillation with the Reused Teacher
    Classifier").

    The student learns the map from which the teacher pools. Layers after the student (`transfer`) map its map to the
    teacher's number of channels. These layers and the teacher's classifier, which is not trained, are kept: the
    deployed network is the student, these layers and this classifier (a `reused_classifier`). `val/acc`, `test`, the
    evaluators, `predict`, `export`, the cost and `student.safetensors` are those of this network. The student's own
    classifier is not used and not trained. There are no other terms by default, so that labels are not needed.

    *Of the paper and of its released code*: the loss, the layers and the reused classifier. The larger of the two maps
    is pooled to the size of the smaller one. The student's map is pooled before the layers, by the ratio of the
    networks' strides; this pooling is kept. *Inferred*: if the embedding of the teacher is not the average of a map
    (ViTs, ConvNeXt), it is itself the target, and the student's map is pooled to one position. The last ReLU is left
    out if the teacher's map has negative values.

    Args:
        factor: Number by which the teacher's number of channels is divided for the width of the first two layers.
        simkd_weight: Weight of the loss.
        ce_weight: Weight of the cross-entropy of the deployed network with the labels. The paper has no such term.
        **kwargs: Arguments of every distiller, such as teacher, kd_weight, student, optimizer and lr_scheduler.

    Raises:
        ConfigError: if the classes of teacher and data differ, or if the teacher has no linear classifier.
    """

    min_batch_size = 2
    normalises_vectors = True

    def __init__(self, *, factor: int = 2, simkd_weight: float = 1.0, ce_weight: float = 0.0, **kwargs: Any) -> None:
        super().__init__(ce_weight=ce_weight, **kwargs)
        check_positive(factor=factor)
        self.set_weights(simkd_weight=simkd_weight)
        student, teacher = self.student, self.teacher
        checks.check_teacher("SimKD", student, teacher, logits=True)
        weight, bias = (None if value is None else value.detach().clone() for value in teacher.classifier)
        seen = teacher.averaged_map()
        settings = {
            "width": weight.shape[1],
            "pooling": 0 if seen is None else _pooling(student, teacher),
            "factor": factor,
            "relu": seen is not None and bool((seen >= 0).all()),
            "bias": bias is not None,
        }
        deployed = assembled("reused_classifier", student=student, **settings)
        self.transfer, self.teacher_classifier = deployed.model.transfer, deployed.model.teacher_classifier
        self.teacher_classifier.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        for value in (*self.teacher_classifier.parameters(), *self.classifier_parameters):
            value.requires_grad_(False)
        self.of_map = seen is not None
        self.deploy(deployed)

    def check_terms(self, *, ce_weight: float, kd_weight: float) -> None:
        if self.freeze or self.probe_epochs:
            raise ConfigError("model.freeze: SimKD does not train the classifier; remove freeze and probe_epochs")

    @property
    def reads(self) -> Reads:
        return READS

    @property
    def teacher_reads(self) -> Reads:
        return Reads(final=True) if self.of_map else Reads(embedding=True)

    @property
    def trains_classifier(self) -> bool:
        return True  # the deployed network has a classifier of these classes

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        mapped = self.deployed.model.mapped(student)
        target = teacher.final if self.of_map else teacher.embedding[:, :, None, None]
        terms = {"simkd": self.simkd_weight * mean_squared_error(*match_spatial(mapped, target))}
        if self.ce_weight or self.kd_weight:
            logits = self.deployed.model.forward_head(mapped)
            if self.ce_weight:
                terms["ce"] = self.ce_weight * self.cross_entropy(logits, batch)
            if self.kd_weight:
                terms["kd"] = self.kd_weight * kd_loss(logits, teacher.logits, temperature=self.kd_temperature)
        return terms


def _pooling(student: Network, teacher: Network) -> int:
    """Return the factor by which the student's map is larger than the teacher's, 1 or more."""
    own, taught = (network.model.feature_info[-1]["reduction"] for network in (student, teacher))
    sizes = (student.size / teacher.size) if student.size and teacher.size else 1
    return max(1, round(sizes * taught / own))
