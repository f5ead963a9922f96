"""ReviewKD: each stage of the teacher is learnt from several stages of the student (Chen et al. 2021)."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import connector
from kd_lightning.distillation.durations import Duration
from kd_lightning.functional import full_precision
from kd_lightning.models import Features, Reads

LEVELS = (4, 2, 1)
"""Sizes to which the maps are pooled in addition to their own size."""
MAX_MIDDLE = 512
"""Largest number of channels of a fusion."""


@full_precision
def hcl_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Return the hierarchical context loss (HCL) of ReviewKD, summed over the pairs of maps.

    The loss of a pair is the weighted mean of squared differences: of the maps themselves with weight 1, and of the
    maps pooled to 4x4, 2x2 and 1x1 positions with weights 1/2, 1/4 and 1/8. Sizes that are not below that of the maps
    are skipped, and the next size then has their weight (as in the released code).

    Args:
        student_maps: Fused maps of the student, each with the shape of the teacher's map, N,C,H,W.
        teacher_maps: Maps of the teacher, each N,C,H,W.
    """
    return torch.stack([_hcl(*pair) for pair in zip(student_maps, teacher_maps, strict=True)]).sum()


def _hcl(student: Tensor, teacher: Tensor) -> Tensor:
    height, width = student.shape[-2:]
    weights, losses = [1.0], [F.mse_loss(student, teacher)]
    for level in (level for level in LEVELS if level < max(height, width)):
        grid = min(level, height), min(level, width)
        pooled = (F.adaptive_avg_pool2d(maps, grid) for maps in (student, teacher))
        weights.append(weights[-1] / 2)
        losses.append(F.mse_loss(*pooled))
    return sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)


class AttentionFusion(nn.Module):
    """Fusion of a stage's map with the fused map of the deeper stages (ABF in the paper and in the released code).

    Args:
        channels: Number of channels of the stage's map.
        middle: Number of channels of all fused maps.
        output: Number of channels of the teacher's map.
        deepest: Whether this is the deepest map, which is fused with no other map.
    """

    def __init__(self, channels: int, middle: int, output: int, *, deepest: bool) -> None:
        super().__init__()
        self.reduce = connector(channels, middle, relu=False, init="kaiming")
        self.expand = connector(middle, output, kernel=3, relu=False, init="kaiming")
        self.attention = None if deepest else nn.Conv2d(2 * middle, 2, 1)

    def forward(self, maps: Tensor, deeper: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the map in the shape of the teacher's, N,D,h,w, and the fused map N,M,h,w for the next stage.

        Args:
            maps: Map of this stage, N,C,H,W.
            deeper: Fused map of the deeper stages. It is enlarged to the size of `maps` by repeating values.
            size: Size h, w of the teacher's map.
        """
        fused = self.reduce(maps)
        if self.attention is not None:
            deeper = F.interpolate(deeper, fused.shape[-2:])
            own, other = self.attention(torch.cat([fused, deeper], dim=1)).sigmoid().split(1, dim=1)
            fused = own * fused + other * deeper
        fused = fused if fused.shape[-2:] == size else F.interpolate(fused, size)
        return self.expand(fused), fused


class ReviewKD(Distiller):
    """Knowledge review (Chen, Liu, Zhao, Jia 2021, "Distilling Knowledge via Knowledge Review").

    From the deepest stage to the first, the student's map of each stage is fused with the fused map of the deeper
    stages, and learns the teacher's map of this stage. The deepest maps are the two embeddings. An early stage of the
    teacher is therefore also learnt by late stages of the student. The fusions are dropped after training.

    *Of the paper and of its released code*: the fusion and the loss. *Of mdistiller, which the authors of DKD
    released*: the default weight, the warm-up, and the maps that are read. *Inferred*: the maps of a teacher without
    pre-activations (ViTs), and maps that are not square.

    Args:
        layers: Number of stages whose maps are matched in addition to the embedding, counted back from the last stage.
            Default: 4 if both networks have five stages, otherwise 3, as in the released code.
        teacher_preactivations: Whether the teacher's maps are read before their last activation. Default: true if the
            teacher has such maps.
        student_preactivations: Whether the student's maps are read before their last activation. In the released code,
            they are for ImageNet, and not for CIFAR.
        warmup: Epochs, or share of the run, in which the weight rises to `reviewkd_weight`. In the released code: 20 of
            240 epochs for CIFAR, 1 epoch for ImageNet.
        reviewkd_weight: Weight of the loss. The authors' code has 0.6 for ResNet-56 to ResNet-20, 1 for ResNet-110 to
            ResNet-32 and for ImageNet, 8 for ShuffleNetV2 and for MobileNet on ImageNet, and 5 for the other pairs.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
    """

    min_batch_size = 2
    normalises_vectors = True

    def __init__(
        self,
        *,
        layers: int | None = None,
        teacher_preactivations: bool | None = None,
        student_preactivations: bool = False,
        warmup: Duration = 20 / 240,
        reviewkd_weight: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        layers = self.stages_after_stem if layers is None else layers
        self.check_layer("layers", layers)
        self.set_durations(warmup=warmup)
        self.set_weights(reviewkd_weight=reviewkd_weight)
        self.layers, self.student_preactivations = layers, student_preactivations
        self.teacher_preactivations = (
            self.teacher.has_preactivations if teacher_preactivations is None else teacher_preactivations
        )
        widths, outputs = (
            [network.embedding_width, *(info["num_chs"] for info in reversed(network.model.feature_info[-layers:]))]
            for network in (self.student, self.teacher)
        )
        middle = min(MAX_MIDDLE, widths[0])
        fusions = (
            AttentionFusion(width, middle, output, deepest=number == 0)
            for number, (width, output) in enumerate(zip(widths, outputs, strict=True))
        )
        self.fusions = nn.ModuleList(fusions)  # from the deepest map to the first

    @property
    def reads(self) -> Reads:
        return (
            Reads(embedding=True, preactivations=self.layers)
            if self.student_preactivations
            else Reads(embedding=True, maps=self.layers)
        )

    @property
    def teacher_reads(self) -> Reads:
        return (
            Reads(embedding=True, preactivations=self.layers)
            if self.teacher_preactivations
            else Reads(embedding=True, maps=self.layers)
        )

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        maps, targets = (
            [seen.embedding[:, :, None, None], *reversed(seen.preactivations or seen.maps)]
            for seen in (student, teacher)
        )
        fused, outputs = None, []
        for fusion, own, target in zip(self.fusions, maps, targets, strict=True):
            output, fused = fusion(own, fused, target.shape[-2:])
            outputs.append(output)
        return {"reviewkd": self.reviewkd_weight * self.ramp("warmup") * hcl_loss(outputs, targets)}
