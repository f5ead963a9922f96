"""FSP: the flow of the solution procedure between two stages (Yim et al. 2017)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import connector
from kd_lightning.distillation.durations import Duration
from kd_lightning.distillation.stages import Stage
from kd_lightning.errors import ConfigError
from kd_lightning.functional import full_precision, match_spatial
from kd_lightning.models import Features, Reads, classifier


@full_precision
def fsp_matrix(lower: Tensor, upper: Tensor) -> Tensor:
    """Return the mean over positions of the products of the channels of two maps, N,D,C (Eq. 1).

    Args:
        lower: Map of a stage, N,C,H,W.
        upper: Map of the next stage, N,D,h,w. The larger map is average-pooled to the size of the smaller map.
    """
    lower, upper = (maps.flatten(2) for maps in match_spatial(lower, upper))
    return upper @ lower.mT / lower.shape[2]


@full_precision
def fsp_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Return the mean squared difference of the FSP matrices of student and teacher, summed over pairs of stages.

    It is Eq. 2, averaged over the elements of a matrix as in RepDistiller. It grows with the fourth power of the
    features. For features of 1,000 and more, its gradient exceeds the largest number of float16.

    Args:
        student_maps: Maps of consecutive stages of the student, each N,C,H,W.
        teacher_maps: Maps of consecutive stages of the teacher, each N,C,h,w with the channels of the student's map.
    """
    pairs = zip(pairwise(student_maps), pairwise(teacher_maps), strict=True)
    return torch.stack([F.mse_loss(fsp_matrix(*student), fsp_matrix(*teacher)) for student, teacher in pairs]).sum()


class FSP(Distiller):
    """Flow of the solution procedure (Yim, Joo, Bae, Kim 2017, "A Gift from Knowledge Distillation: Fast Optimization,
    Network Minimization and Transfer Learning").

    The run has two stages. In the first stage, the student learns, without labels, how the channels of two consecutive
    stages of the teacher belong together. Its classifier is not trained. In the second stage, the student is trained by
    the cross-entropy (and soft targets) alone.

    Of the paper: the loss and the two stages. Of released code (RepDistiller): the maps, which include that of the
    stem, and the first stage of 30 epochs with weight 1. The weight of 50 in its commands has no effect, because its
    second stage has no such term. In contrast to the released code, these 30 epochs are a part of the run, of 30 / 240
    of its epochs, and have its schedule. Inferred: `connect`.

    Args:
        first_stage: Duration of the first stage: a number of epochs, or a share of the run's epochs.
        layers: Number of stages whose maps are compared, counted back from the last stage. Default: all stages that
            both networks have, at most 5.
        connect: Whether a 1x1 convolution with BatchNorm maps a map of the student to the channels of the teacher if
            their widths differ. The paper needs equal widths.
        fsp_weight: Weight of the loss in the first stage.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.

    Raises:
        ConfigError: if the widths of the maps differ and `connect` is false, or if a stage of the run would train
            nothing.
    """

    def __init__(
        self,
        *,
        first_stage: Duration = 30 / 240,
        layers: int | None = None,
        connect: bool = False,
        fsp_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        layers = min(self.shared_stages, 5) if layers is None else layers
        if layers < 2:
            raise ConfigError(f"layers: FSP compares pairs of stages, and {layers} is too few; give 2 or more")
        self.check_layer("layers", layers)
        self.set_weights(fsp_weight=fsp_weight)
        self.set_first_stage(first_stage)
        self.layers = layers
        networks = (self.student, self.teacher)
        widths, teacher_widths = ([i["num_chs"] for i in n.model.feature_info[-layers:]] for n in networks)
        if widths != teacher_widths and not connect:
            raise ConfigError(
                f"student: FSP needs maps of equal widths, but those of {self.student.name} have "
                f"{', '.join(map(str, widths))} channels, and those of {self.teacher.name} have "
                f"{', '.join(map(str, teacher_widths))}; choose another student, or set connect to true"
            )
        self.connectors = nn.ModuleList(
            nn.Identity() if width == other else connector(width, other, relu=False)
            for width, other in zip(widths, teacher_widths, strict=True)
        )

    @property
    def training_stages(self) -> tuple[Stage, Stage]:
        heads = classifier.layers(self.student.model)
        first = Stage("flow", "all layers except the student's classifier, by FSP", heads, base_terms=False)
        return first, Stage("labels", "the student, without FSP", idle=[self.connectors])

    def check_terms(self, *, ce_weight: float, kd_weight: float) -> None:
        self.check_both_stages("fsp_weight", ce_weight=ce_weight, kd_weight=kd_weight)

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.layers)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        if self.stage:
            return {}
        connected = [layers(x) for layers, x in zip(self.connectors, student.maps, strict=True)]
        return {"fsp": self.fsp_weight * fsp_loss(connected, teacher.maps)}
