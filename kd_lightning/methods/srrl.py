"""SRRL: the student's features in the teacher's classifier (Yang et al. 2021)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import connector
from kd_lightning.errors import ConfigError
from kd_lightning.functional import full_precision
from kd_lightning.models import Features, Reads


@full_precision
def srrl_losses(
    student_map: Tensor,
    teacher_map: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    teacher_logits: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return two mean squared differences: of the pooled features, and of the teacher's classifier's logits for them.

    The first is between the means of both maps over the positions. The second is between the logits of the teacher and
    those that its classifier gives for the student's mean. Both are means over all elements, as in the released code.

    Args:
        student_map: Map of the student, mapped to the teacher's width, N,D,H,W.
        teacher_map: Map of the teacher, N,D,h,w, or its pooled features as N,D,1,1.
        weight: Weight K,D of the teacher's classifier. If it is None, there is no second loss.
        bias: Bias K of the teacher's classifier.
        teacher_logits: Logits of the teacher, N,K.
    """
    student, teacher = (maps.mean(dim=(2, 3)) for maps in (student_map, teacher_map))
    feature = F.mse_loss(student, teacher)
    return feature, None if weight is None else F.mse_loss(F.linear(student, weight, bias), teacher_logits)


class SRRL(Distiller):
    """Softmax regression representation learning (Yang et al. 2021, "Knowledge Distillation via Softmax Regression
    Representation Learning").

    The student learns the teacher's pooled features, and features for which the frozen classifier of the teacher gives
    the teacher's logits. A 1x1 convolution with BatchNorm and ReLU maps the student's last map to the teacher's width.

    The equations and the initial weights are of the released code. Here, the teacher's features are the input of its
    classifier, also if there is more than pooling before it. The teacher may have other classes than the data.

    Args:
        relu: Whether a ReLU follows the BatchNorm. Use true if the last stage of the teacher ends in a ReLU (ResNets
            and VGGs).
        feature_weight: Weight of the pooled features.
        logits_weight: Weight of the logits; 0 disables the term, and the teacher then needs no classifier. The released
            code for ImageNet has 1, and cls_KD has 5.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.

    Raises:
        ConfigError: if `logits_weight` is above 0, and the teacher has no linear classifier, several, or a random one.
    """

    def __init__(
        self, *, relu: bool = True, feature_weight: float = 1.0, logits_weight: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.set_weights(feature_weight=feature_weight, logits_weight=logits_weight)
        width = self.student.model.feature_info[-1]["num_chs"]
        self.connector = connector(width, self.teacher.embedding_width, relu=relu, init="fan_out")

    def check_terms(self, *, ce_weight: float, kd_weight: float) -> None:
        if self.logits_weight:
            _ = self.teacher.classifier  # raises an error if there is not exactly one linear classifier
            if self.teacher.fresh_classifier:
                raise ConfigError(
                    f"model.teacher.num_classes: the classifier of {self.teacher.name} is random; remove "
                    "model.teacher.num_classes, or set logits_weight to 0"
                )

    @property
    def reads(self) -> Reads:
        return Reads(maps=1)

    @property
    def teacher_reads(self) -> Reads:
        return Reads(embedding=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        maps = self.connector(student.maps[-1]), teacher.embedding[:, :, None, None]
        if not self.logits_weight:
            return {"feature": self.feature_weight * srrl_losses(*maps)[0]}
        weight, bias = (None if part is None else part.detach() for part in self.teacher.classifier)
        feature, logits = srrl_losses(*maps, weight, bias, F.linear(teacher.embedding, weight, bias))
        return {"feature": self.feature_weight * feature, "logits": self.logits_weight * logits}
