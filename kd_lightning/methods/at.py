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
    """The mean squared difference of the two attention maps, each brought to length 1.

    A sample's attention is the mean over channels of its squared features, as one vector over the positions. The
    paper's Eq. 2 has the length of the difference; its released code, and all that followed, the mean square.

    Args:
        student_map: N,C,H,W.
        teacher_map: N,D,h,w; where the sizes differ, the larger is pooled to the smaller.
    """
    student, teacher = (normalize(x.square().mean(dim=1).flatten(1)) for x in match_spatial(student_map, teacher_map))
    return F.mse_loss(student, teacher)


class AT(Distiller):
    """Attention transfer (Zagoruyko & Komodakis 2017, "Paying More Attention to Attention").

    The student is to be active where in the image the teacher is, whatever in.

    Args:
        layers: how many of the last stages' maps are matched, the last with the last and so on; their losses are added.
        at_weight: weight of that sum; the paper's beta and RepDistiller's.
        **kwargs: teacher, ce_weight, kd_weight, student, optimizer and lr_scheduler, as for every distiller.
    """

    def __init__(self, *, layers: int = 3, at_weight: float = 1000.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check_layer("layers", layers)
        self.set_weights(at_weight=at_weight)
        self.layers = layers

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.layers)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        each = torch.stack([at_loss(*maps) for maps in zip(student.maps, teacher.maps, strict=True)])
        return {"at": self.at_weight * each.sum()}
