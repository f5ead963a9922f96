"""FT: factor transfer (Kim, Park, Kwak 2018)."""

from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.durations import Duration
from kd_lightning.distillation.stages import Stage
from kd_lightning.errors import ConfigError, check_between
from kd_lightning.functional import full_precision, match_spatial
from kd_lightning.models import Features, Reads

_SHORTEST = 1e-6
"""Least length by which a factor is divided."""

reconstruction_loss = full_precision(F.mse_loss)
"""Mean squared difference of the teacher's map N,D,h,w and the output of the paraphraser's decoder, in float32."""


@full_precision
def factor_loss(student_factor: Tensor, teacher_factor: Tensor) -> Tensor:
    """Return the mean absolute difference of two factors (Eq. 3, with p = 1 and the means of RepDistiller).

    A factor is squared and averaged over its channels, flattened over the positions, and scaled to length 1. A vector
    that is shorter than 1e-6 is divided by 1e-6, so that its gradient stays finite in float16.

    Args:
        student_factor: Output of the translator, N,C,H,W.
        teacher_factor: Output of the paraphraser, N,D,h,w. The larger factor is average-pooled to the smaller one.
    """
    pair = match_spatial(student_factor, teacher_factor)
    student, teacher = (F.normalize(x.square().mean(dim=1).flatten(1), dim=1, eps=_SHORTEST) for x in pair)
    return (student - teacher).abs().mean()


def coder(*widths: int, norm: bool = False, transposed: bool = False) -> nn.Sequential:
    """Return 3x3 convolutions with biases, each followed by a leaky ReLU with the slope 0.1, which keep the size.

    Args:
        *widths: Numbers of channels of the input and of the output of each convolution.
        norm: Whether BatchNorm follows each convolution.
        transposed: Whether the convolutions are transposed.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers.append((nn.ConvTranspose2d if transposed else nn.Conv2d)(before, after, 3, 1, 1))
        layers += [nn.BatchNorm2d(after)] if norm else []
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers)


class FT(Distiller):
    """Factor transfer (Kim, Park, Kwak 2018, "Paraphrasing Complex Network: Network Compression via Factor Transfer").

    The run has two stages. The first stage trains only the paraphraser, an autoencoder of the teacher's last map,
    without labels. In the second stage, the paraphraser is frozen, and its code of the map is the teacher's factor. The
    student learns the labels and, through a translator of its own last map, this factor. Paraphraser and translator are
    dropped after training.

    Of the paper and of released code (RepDistiller): the layers, the loss, its weight, and the first stage of 30
    epochs. In contrast to the released code, these 30 epochs are a part of the run, of 30 / 240 of its epochs, and have
    its optimizer and schedule. The released code trains the paraphraser with a constant learning rate of 0.01 (0.05 for
    some pairs). The student also runs in the first stage, but nothing of it changes.

    Args:
        first_stage: Duration of the first stage: a number of epochs, or a share of the run's epochs.
        rate: Number of channels of a factor, divided by that of the teacher's map.
        ft_weight: Weight of the difference of the factors in the second stage.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.

    Raises:
        ConfigError: if a factor would have no channel.
    """

    min_positions = 2

    def __init__(
        self, *, first_stage: Duration = 30 / 240, rate: float = 0.5, ft_weight: float = 200.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_between(0, 1, rate=rate)
        self.set_weights(ft_weight=ft_weight)
        self.set_first_stage(first_stage)
        width, teacher_width = (n.model.feature_info[-1]["num_chs"] for n in (self.student, self.teacher))
        code = int(rate * teacher_width)
        if not code:
            raise ConfigError(f"rate: {rate} of the teacher's {teacher_width} channels is less than 1; give more")
        self.paraphraser = nn.ModuleDict()
        self.paraphraser["encoder"] = coder(teacher_width, teacher_width, code, code)
        self.paraphraser["decoder"] = coder(code, code, teacher_width, teacher_width, transposed=True)
        self.translator = coder(width, width, code, code, norm=True)

    @property
    def training_stages(self) -> tuple[Stage, Stage]:
        first = Stage("paraphraser", "only the paraphraser", [self.student, self.translator], base_terms=False)
        return first, Stage("student", "the student and the translator", idle=[self.paraphraser])

    @property
    def reads(self) -> Reads:
        return Reads(maps=1)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        target = teacher.maps[0]
        factor = self.paraphraser["encoder"](target)
        if not self.stage:
            return {"paraphraser": reconstruction_loss(self.paraphraser["decoder"](factor), target)}
        return {"ft": self.ft_weight * factor_loss(self.translator(student.maps[0]), factor)}
