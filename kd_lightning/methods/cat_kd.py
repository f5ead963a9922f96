"""CATKD: class activation maps (Guo et al. 2023)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning import functional
from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller, class_maps
from kd_lightning.errors import check_positive
from kd_lightning.functional import full_precision
from kd_lightning.models import Features, Network, Reads


@full_precision
def class_activation_loss(
    student_maps: Tensor, teacher_maps: Tensor, *, size: int = 2, normalize: bool = False
) -> Tensor:
    """Return the mean squared difference between class maps that are pooled to size x size positions (CAT-KD's code).

    Args:
        student_maps: Class maps of the student, N,K,H,W.
        teacher_maps: Class maps of the teacher, N,K,h,w.
        size: Height and width of the pooled maps.
        normalize: Whether the pooled map of each class is scaled to length 1.
    """
    student, teacher = (F.adaptive_avg_pool2d(maps, size).flatten(2) for maps in (student_maps, teacher_maps))
    if normalize:
        student, teacher = functional.normalize(student), functional.normalize(teacher)
    return F.mse_loss(student, teacher)


class CATKD(Distiller):
    """Class activation maps (Guo et al. 2023, "Class Attention Transfer Based Knowledge Distillation").

    The student learns at which places of an image the teacher sees each class. A class map is the output of a network's
    classifier, as a 1x1 convolution without bias, for the last feature map.

    The equation and the weights are of the released code. It removes the bias of both classifiers; here, the networks
    keep it, and only the class maps have no bias.

    Args:
        grid: Height and width to which the class maps are pooled. The released code has 2, and 4 for ShuffleNets and on
            ImageNet.
        normalize: Whether the pooled map of each class is scaled to length 1, as in the released code if the
            architectures differ.
        cat_weight: Weight of the loss. The default is that of ResNet-56 to ResNet-20. The released code has 1.8 for
            ResNet-110 to ResNet-32, 4.5 for VGG-13 to VGG-8, 12 for WRN-40-2 to WRN-16-2 and 15 for ResNet-32x4 to
            ResNet-8x4; with `normalize`, 600 for ResNet-32x4 to ShuffleNets.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.

    Raises:
        ConfigError: if a network has no class maps (ConvNeXt, distilled DeiT, ...), or class maps with fewer positions
            than grid x grid.
    """

    min_positions = 4

    def __init__(self, *, grid: int = 2, normalize: bool = False, cat_weight: float = 0.7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive(grid=grid)
        self.set_weights(cat_weight=cat_weight)
        self.grid, self.normalize, self.min_positions = grid, normalize, grid**2

    @property
    def reads(self) -> Reads:
        return Reads(maps=1, logits=True, final=True)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_maps = _maps(self.teacher, teacher)
        loss = class_activation_loss(
            _maps(self.student, student), teacher_maps, size=self.grid, normalize=self.normalize
        )
        return {"cat": self.cat_weight * loss}


def _maps(network: Network, features: Features) -> Tensor:
    return network.classify(class_maps.pooled_map(network, features), bias=False)
