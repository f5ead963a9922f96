"""OFD: feature maps before the activation, with a margin (Heo et al. 2019)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import connector
from kd_lightning.functional import full_precision, match_spatial
from kd_lightning.models import Features, Reads, norms


@full_precision
def margins(weight: Tensor, bias: Tensor) -> Tensor:
    """Return E[x | x < 0] of each of C channels, where x is normal with the mean `bias` and the deviation |weight|.

    If x is negative with a probability of at most 0.001, the margin is -3 |weight|, as in the authors' released code.

    Args:
        weight: Weights C of the teacher's BatchNorm before the activation.
        bias: Biases C of this BatchNorm.
    """
    deviation = weight.abs().clamp(min=1e-12)
    ratio = bias / deviation
    below = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    return torch.where(below > 1e-3, bias - deviation * density / below.clamp(min=1e-3), -3 * deviation)


@full_precision
def ofd_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], margins: Sequence[Tensor]) -> Tensor:
    """Return the partial squared distance between maps before the activation, as a weighted sum over stages (Eq. 3).

    The teacher's values t are replaced by max(t, margin). The squared difference counts unless s <= max(t, margin) <=
    0. It is summed over channels and positions and averaged over samples. The last stage has the weight 1, and each
    earlier stage half the weight of the next one.

    Args:
        student_maps: Pre-activations of the student's stages, mapped to the teacher's channels, each N,C,H,W.
        teacher_maps: Pre-activations of the teacher's stages, each N,C,h,w. The larger map of a pair is pooled.
        margins: Margins of the teacher's stages, each C.
    """
    terms = []
    for number, (student, teacher, margin) in enumerate(zip(student_maps, teacher_maps, margins, strict=True), start=1):
        student, teacher = match_spatial(student, teacher)
        target = torch.maximum(teacher, margin[:, None, None])
        counts = (student > target) | (target > 0)
        distance = torch.where(counts, student - target, 0.0).square().sum() / len(student)
        terms.append(distance / 2 ** (len(student_maps) - number))
    return torch.stack(terms).sum()


class OFD(Distiller):
    """Overhaul of feature distillation (Heo et al. 2019, "A Comprehensive Overhaul of Feature Distillation").

    The student learns the teacher's feature maps before the last activation of each stage. Positive values of the
    teacher are learnt exactly. Where the teacher is negative, the student only has to be below the margin, the expected
    negative value of the channel, which follows from the teacher's BatchNorm. A 1x1 convolution with BatchNorm maps
    each map of the student to the channels of the teacher. They are dropped after training.

    Of the paper and of released code (the authors', mdistiller): everything except two points. In both codes, the
    teacher is in train mode, so that it normalises by the statistics of the batch, and its running statistics change
    during training. Here the teacher is in eval mode, and stays as it is. Inferred: the larger map of a pair is pooled,
    whichever network it belongs to (mdistiller pools the teacher's).

    Args:
        layers: Number of stages whose maps are matched, counted back from the last stage. Default: 4 if both networks
            have five stages, otherwise 3. These are all stages except the first one, which is the stem in most
            networks.
        ofd_weight: Weight of the loss. The default is that of released code.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.

    Raises:
        ConfigError: if a network has no pre-activations, or if the teacher has no BatchNorm before them.
    """

    def __init__(self, *, layers: int | None = None, ofd_weight: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layers = self.stages_after_stem if layers is None else layers
        self.check_layer("layers", layers)
        self.set_weights(ofd_weight=ofd_weight)
        self.layers = layers
        found = norms.before_activations(self.teacher.name, self.teacher.model, layers)
        self.connectors = nn.ModuleList()
        for number, (info, norm) in enumerate(zip(self.student.model.feature_info[-layers:], found, strict=True)):
            self.connectors.append(connector(info["num_chs"], norm.num_features, relu=False, init="fan_out"))
            margin = margins(norm.weight.detach(), norm.bias.detach())
            self.register_buffer(f"margins{number}", margin, persistent=False)

    @property
    def reads(self) -> Reads:
        return Reads(preactivations=self.layers)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        connected = [layers(x) for layers, x in zip(self.connectors, student.preactivations, strict=True)]
        margins_of_stages = [self.get_buffer(f"margins{number}") for number in range(self.layers)]
        return {"ofd": self.ofd_weight * ofd_loss(connected, teacher.preactivations, margins_of_stages)}
