"""FitNet: a stage of the teacher as a hint (Romero et al. 2015)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.errors import ConfigError
from kd_lightning.functional import full_precision, match_spatial
from kd_lightning.models import Features, Reads


@full_precision
def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of two tensors of one shape (FitNets, Eq. 3, as a mean)."""
    return F.mse_loss(student, teacher)


class FitNet(Distiller):
    """Hints (Romero et al. 2015, "FitNets: Hints for Thin Deep Nets").

    A 1x1 convolution with BatchNorm (and ReLU) maps a stage of the student to the teacher's channels; where the
    two sizes differ, the larger map is pooled to the smaller. In one phase, beside the cross-entropy, as RepDistiller
    does it; the paper first trains up to the stage by the hint alone, and then by KD.

    Args:
        layer: which stage, counted from the last, which is 1; 2 is the middle of three.
        relu: whether the mapped features end in a ReLU, as the teacher's do where it is a convolutional network.
        fitnet_weight: weight of the hint; RepDistiller's.
        **kwargs: teacher, ce_weight, kd_weight, student, optimizer and lr_scheduler, as for every distiller.
    """

    def __init__(self, *, layer: int = 2, relu: bool = True, fitnet_weight: float = 100.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check_layer("layer", layer)
        self.set_weights(fitnet_weight=fitnet_weight)
        self.layer = layer
        width, teacher_width = (n.model.feature_info[-layer]["num_chs"] for n in (self.student, self.teacher))
        layers = [nn.Conv2d(width, teacher_width, 1, bias=False), nn.BatchNorm2d(teacher_width)]
        self.regressor = nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)

    def check_terms(self, *, ce_weight: float, kd_weight: float) -> None:
        if self.layer > 1 and not (ce_weight or kd_weight):
            raise ConfigError(
                f"layer: {self.layer}; without labels and soft targets, the stages after it would learn nothing; give 1"
            )

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.layer)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        pair = match_spatial(self.regressor(student.maps[0]), teacher.maps[0])
        return {"fitnet": self.fitnet_weight * hint_loss(*pair)}
