"""SDD: soft targets of the regions of an image (Wei et al. 2024)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller, class_maps
from kd_lightning.distillation.durations import Duration
from kd_lightning.errors import check_not_negative, check_temperature
from kd_lightning.functional import full_precision, kd_loss
from kd_lightning.methods.dkd import dkd_loss
from kd_lightning.models import Features, Network, Reads

SCALES = (1, 2, 4)
"""Regions in each direction: the whole image, 2 x 2 and 4 x 4."""


@full_precision
def region_logits(maps: Tensor, weight: Tensor, bias: Tensor | None, *, grid: int = 4) -> Tensor:
    """Return the logits N,K,R of R regions: the classifier's output for the mean of the map over each region.

    The map is pooled to grid x grid regions, and these to the coarser scales. The first region is the whole image. A
    grid of 4 gives 1 + 4 + 16 regions, and a grid of 2 gives 1 + 4.

    Args:
        maps: Input of pooling of a network, N,D,H,W.
        weight: Weight of its classifier, K,D.
        bias: Bias of its classifier, K.
        grid: Regions in each direction at the finest scale, 4 or 2.
    """
    finest = F.adaptive_avg_pool2d(maps, grid)
    means = torch.cat([F.adaptive_avg_pool2d(finest, scale).flatten(2) for scale in SCALES if scale <= grid], dim=2)
    return F.linear(means.mT, weight, bias).mT


@full_precision
def sdd_loss(
    student_regions: Tensor,
    teacher_regions: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    base: Literal["kd", "dkd"] = "kd",
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Return the mean of KD's or DKD's loss over N samples and R regions, with a double weight of unlike regions.

    The weight of a region is 2 if the teacher is right about the region and wrong about the whole image, or the other
    way around, and 1 otherwise (SDD's code).

    Args:
        student_regions: Logits of the student, N,K,R. The first region is the whole image.
        teacher_regions: Logits of the teacher, N,K,R.
        labels: Labels N, int64.
        temperature: Temperature of both softmaxes.
        base: Loss of a region.
        alpha: Weight of the target class in DKD.
        beta: Weight of the other classes in DKD.
    """
    count = student_regions.shape[2]
    student, teacher = (x.transpose(1, 2).flatten(0, 1) for x in (student_regions, teacher_regions))
    if base == "kd":
        losses = kd_loss(student, teacher, temperature=temperature, reduction="none")
    else:
        repeated, settings = labels.repeat_interleave(count), {"alpha": alpha, "beta": beta, "reduction": "none"}
        losses = dkd_loss(student, teacher, repeated, temperature=temperature, **settings)
    right = teacher_regions.argmax(dim=1) == labels[:, None]
    weights = 1.0 + (right != right[:, :1])
    return (losses.unflatten(0, (-1, count)) * weights).mean()


class SDD(Distiller):
    """Scale-decoupled distillation (Wei, Luo, Luo 2024, "Scale Decoupled Distillation").

    The student learns soft targets of the whole image, and of its regions at two scales. The logits of a region are the
    output of a network's classifier for the mean of the last map over this region. Regions about which the teacher is
    right, although it is wrong about the image (or the other way around), count twice.

    The equations and the weights are of the released code. It has the warm-up only with the base `dkd`. With a grid of
    2, it also pools to 4 x 4 regions first.

    Args:
        base: Loss of a region: `kd` or `dkd`. The released code has a `ce_weight` and an `sdd_weight` of 1 with `dkd`.
        grid: Regions in each direction at the finest scale. With 2, the maps need only 2 x 2 positions.
        temperature: Temperature of both softmaxes.
        alpha: Weight of the target class in DKD.
        beta: Weight of the other classes in DKD. The released code has 2 for ResNet-56 to ResNet-20 and for ResNet-110
            to ResNet-32, and 6 for VGG-13 to VGG-8 and for pairs of WRNs.
        warmup: Duration in which the weight of the loss increases linearly: a number of epochs, or a share of the run.
            The released code has 20 of 240 epochs.
        ce_weight: Weight of the cross-entropy with the labels. The default is that of the released code for `kd`.
        sdd_weight: Weight of the loss. The default is that of the released code for `kd`.
        **kwargs: Arguments of every distiller, such as teacher, kd_weight, student, optimizer and lr_scheduler.

    Raises:
        ConfigError: if a network has no class maps (ConvNeXt, distilled DeiT, ...), if the maps have fewer positions
            than grid x grid, or if the data have no labels or mixed images.
    """

    needs_labels = True
    one_label = True
    min_positions = 16

    def __init__(
        self,
        *,
        base: Literal["kd", "dkd"] = "kd",
        grid: Literal[2, 4] = 4,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        warmup: Duration = 20 / 240,
        ce_weight: float = 0.1,
        sdd_weight: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(ce_weight=ce_weight, **kwargs)
        check_temperature(temperature=temperature)
        check_not_negative(alpha=alpha, beta=beta)
        self.set_durations(warmup=warmup)
        self.set_weights(sdd_weight=sdd_weight)
        self.grid, self.min_positions = grid, grid**2
        self.settings = {"base": base, "temperature": temperature, "alpha": alpha, "beta": beta}

    @property
    def reads(self) -> Reads:
        return Reads(maps=1, logits=True, final=True)

    def _regions(self, network: Network, features: Features) -> Tensor:
        return region_logits(class_maps.pooled_map(network, features), *network.classifier, grid=self.grid)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            targets = self._regions(self.teacher, teacher)
        loss = sdd_loss(self._regions(self.student, student), targets, batch.labels, **self.settings)
        return {"sdd": self.ramp("warmup") * self.sdd_weight * loss}
