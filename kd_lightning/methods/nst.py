"""NST: neuron selectivity transfer (Huang & Wang 2017)."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.functional import full_precision, match_spatial, normalize
from kd_lightning.models import Features, Reads


@full_precision
def nst_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy (MMD) between the channels of student and teacher (Eqs. 2 and 5).

    The map of each channel is a vector over the positions, scaled to length 1. It shows where in the image the channel
    is active. The channels of one image are samples of a distribution, and MMD compares the two distributions with the
    kernel k(a, b) = (a^T b)^2: the means of k over all pairs of channels of the student, plus those of the teacher,
    minus twice those of one channel of each. The result is averaged over the images.

    Args:
        student_map: Feature map of the student, N,C,H,W.
        teacher_map: Feature map of the teacher, N,D,h,w. If the sizes of the two maps differ, the larger map is pooled
            to the size of the smaller map.
    """
    student, teacher = (normalize(x.flatten(2)) for x in match_spatial(student_map, teacher_map))
    pairs = (teacher, teacher), (student, student), (student, teacher)
    taught, own, mixed = ((a @ b.mT).square().mean() for a, b in pairs)
    return taught + own - 2 * mixed


class NST(Distiller):
    """Neuron selectivity transfer (Huang & Wang 2017, "Like What You Like: Knowledge Distill via Neuron Selectivity
    Transfer").

    The student learns channels that are active at the same positions of an image as the teacher's channels. No channel
    of the student belongs to a channel of the teacher, so that the two networks may have different numbers of channels.

    *Of the paper*: the loss with the polynomial kernel of degree 2. *Of RepDistiller*: the stages, the pooling of the
    larger map, and the weight.

    Args:
        layers: Number of stages whose feature maps are matched, counted back from the last stage. The losses of all
            pairs are added. Default: 4 if both networks have five stages, otherwise 3, as in RepDistiller.
        nst_weight: Weight of the sum of the losses.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.

    Raises:
        ConfigError: if a network has fewer stages, or if a pair of maps has only one position.
    """

    min_positions = 2

    def __init__(self, *, layers: int | None = None, nst_weight: float = 50.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layers = self.stages_after_stem if layers is None else layers
        self.check_layer("layers", layers)
        self.set_weights(nst_weight=nst_weight)
        self.layers = layers

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.layers)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        stage_losses = torch.stack([nst_loss(*maps) for maps in zip(student.maps, teacher.maps, strict=True)])
        return {"nst": self.nst_weight * stage_losses.sum()}
