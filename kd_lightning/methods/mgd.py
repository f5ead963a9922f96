"""MGD: the teacher's feature map, generated from a masked map of the student (Yang et al. 2022)."""

from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import connector
from kd_lightning.errors import check_between
from kd_lightning.functional import full_precision, match_spatial
from kd_lightning.models import Features, Reads
from kd_lightning.randomness import named_key, uniform


@full_precision
def generated_loss(generated: Tensor, teacher: Tensor) -> Tensor:
    """Return the sum of the squared differences of a sample's two maps, averaged over N samples (MGD, Eq. 5).

    Args:
        generated: Map that is generated from the student's masked map, N,C,H,W.
        teacher: Map of the teacher, N,C,H,W.
    """
    return (generated - teacher).square().flatten(1).sum(dim=1).mean()


class MGD(Distiller):
    """Masked generative distillation (Yang et al. 2022, "Masked Generative Distillation").

    Some channels of the student's last map are set to 0, and two 3x3 convolutions with a ReLU between them must
    generate the teacher's last map from the other channels. If the widths differ, a 1x1 convolution first maps the
    student's map to the teacher's width. The masks differ from image to image and from epoch to epoch.

    The equation, the layers and the masked channels are of the released code for classification, in which the remaining
    channels are not scaled. It needs maps of one size. Inferred: the larger of two maps is average-pooled to the size
    of the smaller map.

    Args:
        mask_ratio: Probability that a channel is set to 0.
        mgd_weight: Weight of the loss, which is a sum over all elements of a map. The default is that of the released
            code for ImageNet, with maps of 512 x 7 x 7. For smaller maps, use a larger weight.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
    """

    def __init__(self, *, mask_ratio: float = 0.15, mgd_weight: float = 7e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_between(0, 1, mask_ratio=mask_ratio)
        self.set_weights(mgd_weight=mgd_weight)
        self.mask_ratio = mask_ratio
        networks = (self.student, self.teacher)
        width, teacher_width = (network.model.feature_info[-1]["num_chs"] for network in networks)
        plain = {"bias": True, "norm": False}
        align = connector(width, teacher_width, relu=False, **plain)
        self.align: nn.Module = nn.Identity() if width == teacher_width else align
        first = connector(teacher_width, teacher_width, kernel=3, **plain)
        second = connector(teacher_width, teacher_width, kernel=3, relu=False, **plain)
        self.generator = nn.Sequential(*first, *second)

    @property
    def reads(self) -> Reads:
        return Reads(maps=1)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        aligned, target = match_spatial(self.align(student.maps[-1]), teacher.maps[-1])
        channels = torch.arange(aligned.shape[1], device=batch.keys.device)
        kept = uniform(named_key(batch.keys, "MGD")[:, None], channels) >= self.mask_ratio
        generated = self.generator(aligned * kept[..., None, None])
        return {"mgd": self.mgd_weight * generated_loss(generated, target)}
