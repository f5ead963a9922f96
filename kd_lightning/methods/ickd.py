"""ICKD: correlations between the channels of a feature map (Liu et al. 2021)."""

from typing import Any

from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import connector
from kd_lightning.functional import full_precision, gram_difference
from kd_lightning.models import Features, Reads


@full_precision
def channel_correlation_loss(student_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """Return the mean over N samples of |G_teacher - G_student|^2 / C (ICKD-C's code).

    G is the C,C matrix of the inner products of a sample's channels over the positions, with each row normalised to
    length 1. The loss does not depend on a factor of a sample's map, nor on the order of its positions.

    Args:
        student_maps: Maps of the student, mapped to the teacher's number of channels, N,C,H,W.
        teacher_maps: Maps of the teacher, N,C,h,w. Their size may differ from that of the student's maps.
    """
    return gram_difference(student_maps.flatten(2), teacher_maps.flatten(2))


class ICKD(Distiller):
    """Inter-channel correlation (Liu et al. 2021, "Exploring Inter-Channel Correlation for Diversity-preserved
    Knowledge Distillation"), in the form ICKD-C for classification.

    The student learns which channels of the teacher's last map are similar to one another. A 1x1 convolution with
    BatchNorm maps the student's last map to the teacher's number of channels.

    The equation and the weight are of the released code. It also creates layers for the teacher, which it never uses;
    they do not exist here.

    Args:
        ickd_weight: Weight of the loss. The default is that of the released code.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
    """

    def __init__(self, *, ickd_weight: float = 2.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_weights(ickd_weight=ickd_weight)
        networks = (self.student, self.teacher)
        width, teacher_width = (network.model.feature_info[-1]["num_chs"] for network in networks)
        self.connector = connector(width, teacher_width, relu=False)

    @property
    def reads(self) -> Reads:
        return Reads(maps=1)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        loss = channel_correlation_loss(self.connector(student.maps[-1]), teacher.maps[-1])
        return {"ickd": self.ickd_weight * loss}
