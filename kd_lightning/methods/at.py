"""AT: attention transfer (Zagoruyko & Komodakis 2017)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.functional import full_precision, match_spatial, normalize
from kd_lightning.models import Features, Reads


@full_precision
def at_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Return the mean squared difference between the attention maps of student and teacher (based on Eq. 2).

    A sample's attention map is the mean over the channels of its squared features. The map is flattened to a vector
    over the positions, and the vector is normalised to length 1. Eq. 2 of the paper takes the L2 norm of the
    difference. The authors' released code and all later implementations take the mean of the squared difference, as
    here.

    Args:
        student_map: Feature map of the student, N,C,H,W.
        teacher_map: Feature map of the teacher, N,D,h,w. If the sizes of the two maps differ, the larger map is pooled
            to the size of the smaller map.
    """
    student, teacher = (normalize(x.square().mean(dim=1).flatten(1)) for x in match_spatial(student_map, teacher_map))
    return F.mse_loss(student, teacher)


class AT(Distiller):
    """Attention transfer (Zagoruyko & Komodakis 2017, "Paying More Attention to Attention").

    The student learns to have large features at the same positions of an image as the teacher. The two networks may
    have different numbers of channels.

    Args:
        layers: Number of stages whose feature maps are matched, counted back from the last stage. The last stage of the
            student is matched with the last stage of the teacher, and so on. The losses of all pairs are added.
            Default: 4 if both networks have five stages (VGG, MobileNetV2 and ResNet-50 for 32 pixels, timm's
            ResNets), otherwise 3. As in RepDistiller, these are all stages except the first one, which is the stem in
            most networks.
        at_weight: Weight of the sum of the losses. The default is the value of beta in the paper and in RepDistiller.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
    """

    def __init__(self, *, layers: int | None = None, at_weight: float = 1000.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layers = self.stages_after_stem if layers is None else layers
        self.check_layer("layers", layers)
        self.set_weights(at_weight=at_weight)
        self.layers = layers

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.layers)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        stage_losses = torch.stack([at_loss(*maps) for maps in zip(student.maps, teacher.maps, strict=True)])
        return {"at": self.at_weight * stage_losses.sum()}
