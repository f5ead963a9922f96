"""AICSD: similarities between the class maps of an image (Mansourian et al. 2023)."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import ConfigError, check_temperature
from kd_lightning.functional import chunked_sum, full_precision, gram_difference, kd_loss
from kd_lightning.models import Features, Reads

_EQUAL = 1e-6
"""Length of a row of divergences below which all distributions are equal, up to rounding in float32."""


@full_precision
def inter_class_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """Return the mean squared difference between the inter-class similarities of student and teacher (ICSD).

    The map of a class becomes a distribution over the positions by a softmax. The similarities of an image are the K,K
    divergences KL(p_c || p_c') between the distributions of two classes. Each row is scaled to length 1. The mean is
    over images and entries.

    The equation is inferred from the abstract of the paper and from the released code, without three errors of this
    code: its softmax is over the height only, its divergence gets probabilities instead of their logarithms, and it is
    computed only for c' >= c and mirrored, although it is not symmetric.

    Args:
        student_maps: Class maps of the student, N,K,H,W.
        teacher_maps: Class maps of the teacher, N,K,h,w. Their size may differ from that of the student's maps.
    """
    (samples, classes), maps = student_maps.shape[:2], (student_maps.flatten(2), teacher_maps.flatten(2))
    return chunked_sum(_squared_differences, *maps, floats_each=classes**2) / (samples * classes**2)


def _squared_differences(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = (_divergences(maps.log_softmax(dim=2)) for maps in (student, teacher))
    return (student - teacher).square().sum()


def _divergences(log_p: Tensor) -> Tensor:
    """Return the divergences N,K,K between all pairs of distributions, with rows of length 1.

    The divergences of equal distributions are only rounding errors, which are not scaled.
    """
    p = log_p.exp()
    divergences = (p * log_p).sum(dim=2, keepdim=True) - p @ log_p.mT
    return divergences / divergences.norm(dim=2, keepdim=True).clamp(min=_EQUAL)


@full_precision
def class_gram_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """Return the squared difference between the K,K Gram matrices of the class maps, per image and class.

    Each row of a Gram matrix is scaled to length 1. The differences are summed over a row, and averaged over images and
    rows. This is the term `ic` of the released code. It does not depend on the scale of the maps.

    Args:
        student_maps: Class maps of the student, N,K,H,W.
        teacher_maps: Class maps of the teacher, N,K,h,w. Their size may differ from that of the student's maps.
    """
    return gram_difference(student_maps.flatten(2), teacher_maps.flatten(2))


class AICSD(Distiller):
    """Adaptive inter-class similarity distillation (Mansourian et al. 2023, "AICSD: Adaptive Inter-Class Similarity
    Distillation for Semantic Segmentation", arXiv 2308.04243), for classification.

    The student learns how similar the places are at which the teacher sees two classes in an image. A class map is the
    output of a network's classifier, as a 1x1 convolution without bias, for its last feature map.

    Only the abstract and the released code were available. Of the paper: the inter-class similarities, and the adaptive
    weights. In epoch e of E, the soft targets are multiplied by 1 - e/E, and the cross-entropy and the similarities by
    e/E: the student first imitates the teacher's outputs, and learns from labels later. Of the released code: the term
    `class_gram`, which is off by default here. Inferred: class maps in the place of the score maps of segmentation,
    soft targets of the image in the place of those of each pixel, and the default weights. The weights of the released
    code belong to other terms than its README says.

    Args:
        adaptive: Whether the weights change with the epoch. If false, they are constant.
        temperature: Temperature of both softmaxes of the soft targets.
        inter_class_weight: Weight of the inter-class similarities.
        class_gram_weight: Weight of the term `class_gram`; 0 disables it.
        kd_weight: Weight of the soft targets.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, student, optimizer and lr_scheduler.

    Raises:
        ConfigError: if a network has no class maps (ConvNeXt, EfficientNet, ...), or class maps with fewer than 16
            positions, or if there are only two classes, whose similarities are constant.
    """

    min_positions = 16

    def __init__(
        self,
        *,
        adaptive: bool = True,
        temperature: float = 4.0,
        inter_class_weight: float = 100.0,
        class_gram_weight: float = 0.0,
        kd_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        check_temperature(temperature=temperature)
        super().__init__(kd_weight=kd_weight, kd_temperature=temperature, **kwargs)
        self.set_weights(inter_class_weight=inter_class_weight, class_gram_weight=class_gram_weight)
        self.adaptive = adaptive
        if 0 < self.student.num_classes < 3:
            raise ConfigError(
                f"data.num_classes: AICSD compares pairs of classes, and {self.student.num_classes} classes have only "
                "one pair; choose another method"
            )

    def check_terms(self, *, ce_weight: float, kd_weight: float) -> None:
        if self.adaptive and not kd_weight:
            raise ConfigError(
                "kd_weight: 0 is given, but with adaptive, the first epoch has only the soft targets; set kd_weight "
                "above 0, or adaptive to false"
            )

    @property
    def reads(self) -> Reads:
        return Reads(maps=1, logits=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_maps = self.teacher.classify(teacher.maps[-1], bias=False)
        maps = self.student.classify(student.maps[-1], bias=False), teacher_maps
        late, early = (self.epoch_share, 1 - self.epoch_share) if self.adaptive else (1.0, 1.0)
        terms = {"inter_class": inter_class_loss, "class_gram": class_gram_loss}
        weights = {name: self.weights[f"{name}_weight"] for name in terms}
        losses = {name: late * weight * terms[name](*maps) for name, weight in weights.items() if weight}
        if self.ce_weight:
            losses["ce"] = late * self.ce_weight * self.cross_entropy(student.logits, batch)
        if self.kd_weight:
            soft = kd_loss(student.logits, teacher.logits, temperature=self.kd_temperature)
            losses["kd"] = early * self.kd_weight * soft
        return losses
