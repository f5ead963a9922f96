"""DeiT: distillation by a token of its own (Touvron et al. 2021)."""

from typing import Any, Literal

import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import check_temperature
from kd_lightning.functional import full_precision, kd_loss
from kd_lightning.models import Features, Reads


@full_precision
def hard_distillation_loss(distillation_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the cross-entropy of the student's logits with the teacher's most probable classes (DeiT, Eq. 3).

    The teacher's class is the label. The loss is not minimal at distillation_logits = teacher_logits, because its
    target is one class and not the teacher's probabilities.

    Args:
        distillation_logits: Logits of the student's distillation head, N,K.
        teacher_logits: Logits of the teacher, N,K.
    """
    return F.cross_entropy(distillation_logits, teacher_logits.argmax(dim=1))


class DeiT(Distiller):
    """Distillation token (Touvron et al. 2021, "Training data-efficient image transformers & distillation through
    attention").

    The student is a ViT with a class token and a distillation token, each with a classifier (timm's
    `deit_tiny_distilled_patch16_224`, ...). The classifier of the class token learns the labels. The classifier of the
    distillation token learns the decision of the teacher, which may be a CNN. In the evaluation, the student's logits
    are the mean of both, as in timm. Other networks with two classifiers (`levit_*`, `efficientformer_*`) learn in the
    same way. A network with one classifier learns both with it.

    Of the paper and its released code: both forms and the two heads. Of the paper: the temperature and the weight of
    the soft form. The released code divides the soft divergence by the number of classes as well; here, it is KD's.
    Inferred: networks with one classifier.

    Args:
        form: `hard`: the teacher's most probable class. `soft`: the teacher's probabilities, as in KD.
        temperature: Temperature of both softmaxes of the form `soft`.
        ce_weight: Weight of the cross-entropy of the class head with the labels. Default: 1 minus the default of
            `distillation_weight`.
        distillation_weight: Weight of the distillation head. Default: 0.5 for the form `hard` and 0.1 for `soft`.
        **kwargs: Arguments of every distiller, such as teacher, kd_weight, student, optimizer and lr_scheduler. The
            term of `kd_weight` reads the mean of both heads.
    """

    def __init__(
        self,
        *,
        form: Literal["hard", "soft"] = "hard",
        temperature: float = 3.0,
        ce_weight: float | None = None,
        distillation_weight: float | None = None,
        **kwargs: Any,
    ) -> None:
        default = 0.5 if form == "hard" else 0.1
        super().__init__(ce_weight=1 - default if ce_weight is None else ce_weight, **kwargs)
        check_temperature(temperature=temperature)
        self.set_weights(distillation_weight=default if distillation_weight is None else distillation_weight)
        self.form, self.temperature = form, temperature

    @property
    def reads(self) -> Reads:
        return Reads(tokens=self._two_heads, embedding=self._two_heads, logits=True)

    @property
    def teacher_reads(self) -> Reads:
        return Reads(logits=True)

    @property
    def _two_heads(self) -> bool:
        return hasattr(self.student.model, "head_dist")

    def _logits(self, student: Features) -> tuple[Tensor, Tensor]:
        """Return the logits of the class head and of the distillation head."""
        model = self.student.model
        if not self._two_heads:
            return student.logits, student.logits
        if isinstance(model, VisionTransformer):
            return model.head(student.tokens[:, 0]), model.head_dist(student.tokens[:, 1])
        return model.head(student.embedding), model.head_dist(student.embedding)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        logits, distillation_logits = self._logits(student)
        if self.form == "hard":
            loss = hard_distillation_loss(distillation_logits, teacher.logits)
        else:
            loss = kd_loss(distillation_logits, teacher.logits, temperature=self.temperature)
        terms = {"distillation": self.distillation_weight * loss}
        if self.ce_weight:
            terms["ce"] = self.ce_weight * self.cross_entropy(logits, batch)
        return terms
