"""AB: activation boundaries (Heo et al. 2019)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import connector
from kd_lightning.distillation.durations import Duration
from kd_lightning.distillation.stages import Stage
from kd_lightning.errors import check_not_negative
from kd_lightning.functional import full_precision, match_spatial
from kd_lightning.models import Features, Reads, classifier

_SCALE = 3 / 1000  # of the authors' released code and of RepDistiller


@full_precision
def activation_boundary_loss(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, margin: float = 1.0
) -> Tensor:
    """Return the loss of activation boundaries, as a weighted sum over stages (Eq. 5, with the scale of released code).

    Where the teacher is positive, the student s should be above the margin, and the loss is (s - margin)^2 below it.
    Elsewhere s should be below -margin, and the loss is (s + margin)^2 above it. The loss is summed over channels and
    positions, averaged over samples, and multiplied by 3 / 1000. The last stage has the weight 1, and each earlier
    stage half the weight of the next one. The loss is not minimal at student = teacher.

    Args:
        student_maps: Pre-activations of the student's stages, mapped to the teacher's channels, each N,C,H,W.
        teacher_maps: Pre-activations of the teacher's stages, each N,C,h,w. The larger map of a pair is pooled.
        margin: Margin around the boundary.
    """
    terms = []
    for number, pair in enumerate(zip(student_maps, teacher_maps, strict=True), start=1):
        student, teacher = match_spatial(*pair)
        outside = torch.where(teacher > 0, margin - student, student + margin).clamp(min=0)
        terms.append(outside.square().sum() / len(student) / 2 ** (len(student_maps) - number))
    return _SCALE * torch.stack(terms).sum()


class AB(Distiller):
    """Activation boundaries (Heo, Lee, Yun, Choi 2019, "Knowledge Transfer via Distillation of Activation Boundaries
    Formed by Hidden Neurons").

    The run has two stages. In the first stage, the student learns, without labels, where the teacher's neurons are
    active: the signs of the teacher's maps before the last activation of each stage. Its classifier is not trained. In
    the second stage, the student is trained by the cross-entropy (and soft targets) alone. If the widths differ, a 1x1
    convolution with BatchNorm maps the student's map to the channels of the teacher. It is dropped after training.

    Of the paper and of released code (RepDistiller): the loss, its weight and the first stage of 30 epochs. In
    contrast to the released code, these 30 epochs are a part of the run, of 30 / 240 of its epochs, and have its
    schedule, and maps of unequal sizes are pooled, whereas the released code maps them by strided convolutions.

    Args:
        first_stage: Duration of the first stage: a number of epochs, or a share of the run's epochs.
        layers: Number of stages whose maps are matched, counted back from the last stage. Default: 4 if both networks
            have five stages, otherwise 3. These are all stages except the first one, which is the stem in most
            networks.
        margin: Margin around the boundary.
        ab_weight: Weight of the loss in the first stage.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.

    Raises:
        ConfigError: if a network has no pre-activations, or if a stage of the run would train nothing.
    """

    def __init__(
        self,
        *,
        first_stage: Duration = 30 / 240,
        layers: int | None = None,
        margin: float = 1.0,
        ab_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        layers = self.stages_after_stem if layers is None else layers
        self.check_layer("layers", layers)
        check_not_negative(margin=margin)
        self.set_weights(ab_weight=ab_weight)
        self.set_first_stage(first_stage)
        self.layers, self.margin = layers, margin
        self.connectors = nn.ModuleList()
        for infos in zip(*(n.model.feature_info[-layers:] for n in (self.student, self.teacher)), strict=True):
            width, teacher_width = (info["num_chs"] for info in infos)
            same = width == teacher_width
            self.connectors.append(nn.Identity() if same else connector(width, teacher_width, bias=True, relu=False))

    @property
    def training_stages(self) -> tuple[Stage, Stage]:
        heads = classifier.layers(self.student.model)
        first = Stage("boundaries", "all layers except the student's classifier, by AB", heads, base_terms=False)
        return first, Stage("labels", "the student, without AB", idle=[self.connectors])

    def check_terms(self, *, ce_weight: float, kd_weight: float) -> None:
        self.check_both_stages("ab_weight", ce_weight=ce_weight, kd_weight=kd_weight)

    @property
    def reads(self) -> Reads:
        return Reads(preactivations=self.layers)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        if self.stage:
            return {}
        connected = [layers(x) for layers, x in zip(self.connectors, student.preactivations, strict=True)]
        loss = activation_boundary_loss(connected, teacher.preactivations, margin=self.margin)
        return {"ab": self.ab_weight * loss}
