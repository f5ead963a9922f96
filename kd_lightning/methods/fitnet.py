"""FitNet: a feature map of the teacher as a hint (Romero et al. 2015)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import connector
from kd_lightning.errors import ConfigError
from kd_lightning.functional import full_precision, match_spatial
from kd_lightning.models import Features, Reads


@full_precision
def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference between two feature maps (FitNets, Eq. 3, averaged over all elements).

    Args:
        student: Feature map of the student, mapped to the shape of the teacher's feature map, N,C,H,W.
        teacher: Feature map of the teacher, N,C,H,W.
    """
    return F.mse_loss(student, teacher)


class FitNet(Distiller):
    """Hints (Romero et al. 2015, "FitNets: Hints for Thin Deep Nets").

    The student learns to predict a feature map of the teacher, called the hint. The student's feature map of the same
    stage is mapped to the teacher's number of channels by a 1x1 convolution, BatchNorm and (with `relu`) a ReLU. If the
    sizes of the two maps differ, the larger map is pooled to the size of the smaller map.

    As in RepDistiller, training has one phase, in which the loss of the hint is added to the cross-entropy. The paper
    has two phases. The first phase trains the student's layers up to this stage, with the hint only. The second phase
    trains all layers of the student with KD.

    Args:
        layer: Number of the stage whose feature map is the hint, counted back from the last stage. The last stage has
            the number 1. Default: 3 if both networks have five stages (VGG, MobileNetV2 and ResNet-50 for 32 pixels,
            timm's ResNets), otherwise 2. As in RepDistiller, this is the third stage from the start.
        relu: Whether a ReLU follows the BatchNorm. Use true if the stages of the teacher end in a ReLU (ResNets and
            VGGs).
        fitnet_weight: Weight of the loss of the hint. The default is that of RepDistiller.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
    """

    def __init__(
        self, *, layer: int | None = None, relu: bool = True, fitnet_weight: float = 100.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        layer = self.stages_after_stem - 1 if layer is None else layer
        self.check_layer("layer", layer)
        self.set_weights(fitnet_weight=fitnet_weight)
        self.layer = layer
        networks = (self.student, self.teacher)
        width, teacher_width = (network.model.feature_info[-layer]["num_chs"] for network in networks)
        self.regressor = connector(width, teacher_width, relu=relu)

    def check_terms(self, *, ce_weight: float, kd_weight: float) -> None:
        if self.layer > 1 and not (ce_weight or kd_weight):
            raise ConfigError(
                f"layer: {self.layer} is given, but without labels and soft targets, the stages after the hint learn "
                "nothing; set layer to 1, or set ce_weight or kd_weight above 0"
            )

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.layer)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        pair = match_spatial(self.regressor(student.maps[0]), teacher.maps[0])
        return {"fitnet": self.fitnet_weight * hint_loss(*pair)}
