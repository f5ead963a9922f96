"""VID: variational information distillation (Ahn et al. 2019)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import connector
from kd_lightning.errors import ConfigError
from kd_lightning.functional import full_precision, match_spatial
from kd_lightning.models import Features, Reads

LEAST_VARIANCE = 1e-5
_LARGEST_VARIANCE = 1e6


@full_precision
def vid_loss(mean: Tensor, teacher: Tensor, log_scale: Tensor) -> Tensor:
    """Return the mean of 1/2 ((teacher - mean)^2 / v + log v), with v = softplus(log_scale) + 1e-5 (Eqs. 5 and 6).

    It is the negative log-likelihood, without its constant, of the teacher's features under a normal distribution with
    one variance v for each channel. For given variances it is least at mean = teacher, where it need not be 0.

    Args:
        mean: Predicted features, from the student's map, N,C,H,W.
        teacher: Feature map of the teacher, N,C,H,W.
        log_scale: Trained parameters C of the variances.
    """
    variance = (F.softplus(log_scale) + LEAST_VARIANCE).view(-1, *[1] * (mean.ndim - 2))
    return ((teacher - mean).square() / variance + variance.log()).mean() / 2


class VID(Distiller):
    """Variational information distillation (Ahn et al. 2019, "Variational Information Distillation for Knowledge
    Transfer").

    On several stages, a small network predicts the teacher's map from the student's map. Maximising the likelihood of
    the teacher's map maximises a lower bound of the mutual information of the two maps. The variance of each channel is
    trained as well, so that channels of the teacher that the student cannot predict have less effect. The predictors
    and the variances are dropped after training.

    *Of the paper*: the loss with one variance per channel. *Of RepDistiller*, from the authors' code: the layers of the
    predictor (three 1x1 convolutions with ReLU between them), the stages, the pooling and the weight. In mdistiller,
    the variances are not in the optimizer and stay as they were initialised. Here they are trained.

    Args:
        layers: Number of stages whose feature maps are matched, counted back from the last stage. The losses of all
            pairs are added. Default: 4 if both networks have five stages, otherwise 3, as in RepDistiller.
        initial_variance: Variance of each channel before training, above 1e-5 and up to 1e6.
        vid_weight: Weight of the sum of the losses.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
    """

    def __init__(
        self, *, layers: int | None = None, initial_variance: float = 5.0, vid_weight: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        layers = self.stages_after_stem if layers is None else layers
        self.check_layer("layers", layers)
        if not LEAST_VARIANCE < initial_variance <= _LARGEST_VARIANCE:
            raise ConfigError(f"initial_variance: {initial_variance} is given; give a number above 1e-5, up to 1e6")
        self.set_weights(vid_weight=vid_weight)
        self.layers = layers
        scale = initial_variance - LEAST_VARIANCE
        scale += math.log(-math.expm1(-scale))  # softplus of the result is the variance without LEAST_VARIANCE
        widths, outputs = (
            [info["num_chs"] for info in network.model.feature_info[-layers:]]
            for network in (self.student, self.teacher)
        )
        self.predictors = nn.ModuleList(map(_predictor, widths, outputs))
        self.log_scales = nn.ParameterList([torch.full((output,), scale) for output in outputs])

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.layers)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        losses = []
        stages = zip(self.predictors, self.log_scales, student.maps, teacher.maps, strict=True)
        for predictor, log_scale, own, taught in stages:
            own, taught = match_spatial(own, taught)
            losses.append(vid_loss(predictor(own), taught, log_scale))
        return {"vid": self.vid_weight * torch.stack(losses).sum()}


def _predictor(channels: int, output: int) -> nn.Sequential:
    first, second = (connector(width, output, norm=False) for width in (channels, output))
    return nn.Sequential(first, second, connector(output, output, norm=False, relu=False))
