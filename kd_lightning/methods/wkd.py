"""WKD: Wasserstein distances between the logits and between the features of two networks (Lv et al. 2024)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import connector
from kd_lightning.distillation.durations import Duration
from kd_lightning.errors import check_not_negative, check_positive, check_temperature
from kd_lightning.functional import cosine, full_precision
from kd_lightning.models import Features, Reads

TINY = 1e-8
"""Smallest cost, and smallest denominator of Sinkhorn's iterations, as in the released code."""


@full_precision
def class_costs(weight: Tensor, *, sharpness: float = 1.0) -> Tensor:
    """Return the cost K,K of moving probability from one class to another, from the classifier's weight K,D.

    The distance d of two classes is 1 minus the cosine of their rows of the weight. The cost is 1 - exp(-sharpness d),
    or d if `sharpness` is 0.
    """
    distances = 1 - cosine(weight[:, None], weight[None])
    return 1 - torch.exp(-sharpness * distances) if sharpness else distances


@full_precision
def wkd_logit_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    costs: Tensor,
    temperature: float = 8.0,
    gamma: float = 200.0,
    regularization: float = 0.05,
    iterations: int = 10,
) -> Tensor:
    """Return -p_t[y] log p_s[y] + gamma W(s, t), averaged over the samples (WKD-L, released code).

    p_s and p_t are the probabilities of student and teacher, and y is the label. W is the cost of moving the student's
    probabilities of all other classes, a softmax of the logits / T without the label, to those of the teacher. The plan
    of the movement is that of `iterations` iterations of Sinkhorn, through which the gradient passes. The loss is not
    minimal at student_logits = teacher_logits, because of the first term. With two classes, W is constant.

    Args:
        student_logits: Logits of the student, N,K.
        teacher_logits: Logits of the teacher, N,K.
        labels: Labels N, int64.
        costs: Cost K,K of moving probability from one class to another. Negative costs count as 0.
        temperature: Temperature T of the softmaxes over the other classes.
        gamma: Factor of W.
        regularization: Weight of the entropy of the plan, in the unit of the costs, above 0.
        iterations: Number of iterations.
    """
    target = labels[:, None]
    own, taught = (
        logits.gather(1, target) - logits.logsumexp(1, keepdim=True) for logits in (student_logits, teacher_logits)
    )
    is_label = target == torch.arange(student_logits.shape[1], device=labels.device)
    own_rest, taught_rest = (
        (logits / temperature).masked_fill(is_label, -torch.inf).softmax(dim=1)
        for logits in (student_logits, teacher_logits)
    )
    costs = costs.relu() + TINY
    kernel = torch.exp(-costs / regularization)
    # the class of the label has the factor 0, so that one kernel serves all samples
    rows = torch.where(is_label, 0.0, torch.ones_like(own_rest) / max(costs.shape[0] - 1, 1))
    for _ in range(iterations):
        columns = taught_rest / (rows @ kernel + TINY)
        rows = own_rest / (columns @ kernel.T + TINY)
    distances = (rows * (columns @ (kernel * costs).T)).sum(dim=1)
    return (gamma * distances - (taught.exp() * own)[:, 0]).mean()


@full_precision
def wkd_feature_loss(
    student_map: Tensor, teacher_map: Tensor, *, mean_ratio: float = 8.0, grid: int = 1, epsilon: float = 1e-5
) -> Tensor:
    """Return the squared 2-Wasserstein distance between normal distributions of the features (WKD-F, released code).

    In each of grid x grid blocks of the map, the features of each channel have a mean m and an unbiased variance v over
    the positions. The distance is mean_ratio |m_s - m_t|^2 + |sqrt(v_s + epsilon) - sqrt(v_t + epsilon)|^2, summed
    over the channels, and averaged over blocks and samples. The two maps may have different sizes.

    Args:
        student_map: Feature map of the student, mapped to the teacher's channels, N,C,H,W.
        teacher_map: Feature map of the teacher, N,C,h,w.
        mean_ratio: Weight of the means relative to the standard deviations.
        grid: Number of blocks in each direction. Each block needs 2 positions.
        epsilon: Number that is added to the variances.
    """
    means, deviations = zip(*(_statistics(x, grid, epsilon) for x in (student_map, teacher_map)), strict=True)
    errors = (F.mse_loss(*pair, reduction="sum") for pair in (means, deviations))
    mean, deviation = (error / (len(student_map) * grid**2) for error in errors)
    return mean_ratio * mean + deviation


def _statistics(maps: Tensor, grid: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel in each block, N,C,grid^2. Blocks as in adaptive pooling."""
    rows, columns = ([(i * size // grid, -(-(i + 1) * size // grid)) for i in range(grid)] for size in maps.shape[-2:])
    blocks = [maps[:, :, top:bottom, left:right].flatten(2) for top, bottom in rows for left, right in columns]
    means = torch.stack([block.mean(dim=2) for block in blocks], dim=2)
    variances = torch.stack([block.var(dim=2) for block in blocks], dim=2)
    return means, (variances + epsilon).sqrt()


class WKD(Distiller):
    """Wasserstein distances (Lv, Yang, Li 2024, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge
    Distillation").

    *Logits* (WKD-L): moving probability between two classes that the teacher finds similar costs little, so that the
    student learns the relations of the classes. *Features* (WKD-F): the student's last map, mapped by a 1x1
    convolution, BatchNorm and ReLU, learns the mean and the standard deviation of each channel of the teacher's last
    map.

    All equations and defaults are of the released code; the weights are those of both terms together for ResNet-32x4 to
    ResNet-8x4 on CIFAR-100. The costs of the classes are those of its option `fc`, from the teacher's classifier. Its
    configs use another file of costs instead, from the CKA between the teacher's features of the images of two classes.
    These costs are not available here.

    Args:
        temperature: Temperature of the logits. The released code has 2 for ImageNet.
        gamma: Factor of the Wasserstein distance in the term `logit`. The released code has 600 without the features,
            and 30 or 10 for ImageNet.
        sharpness: How fast the cost grows with the distance of two classes; 0: it is the distance.
        regularization: Weight of the entropy in Sinkhorn's iterations.
        iterations: Number of Sinkhorn's iterations.
        mean_ratio: Weight of the means relative to the standard deviations. The released code has 4 without the
            logits, and 2 for ImageNet.
        grid: Number of blocks of the map in each direction, whose means and deviations are compared. The released code
            has 4 for ShuffleNetV1 and for ImageNet.
        relu: Whether a ReLU follows the BatchNorm. Use true if the teacher's last map has no negative values.
        decay_start: Epochs, or share of the run, after which `gamma` and `feature_weight` decay to 0 by half a cosine.
            In the released code: 150 of 240 epochs for CIFAR, 0 for ImageNet.
        logit_weight: Weight of the loss of the logits; 0 disables it. The teacher may then have other classes.
        feature_weight: Weight of the loss of the features; 0 disables it.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.
    """

    min_positions = 2

    def __init__(
        self,
        *,
        temperature: float = 8.0,
        gamma: float = 200.0,
        sharpness: float = 1.0,
        regularization: float = 0.05,
        iterations: int = 10,
        mean_ratio: float = 8.0,
        grid: int = 1,
        relu: bool = True,
        decay_start: Duration = 150 / 240,
        logit_weight: float = 1.0,
        feature_weight: float = 0.08,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature=temperature)
        check_not_negative(gamma=gamma, sharpness=sharpness, mean_ratio=mean_ratio)
        check_positive(regularization=regularization, iterations=iterations, grid=grid)
        self.set_durations(decay_start=decay_start)
        self.set_weights(logit_weight=logit_weight, feature_weight=feature_weight)
        self.sinkhorn = {"temperature": temperature, "regularization": regularization, "iterations": iterations}
        self.gamma, self.mean_ratio, self.grid = gamma, mean_ratio, grid
        self.min_positions = 2 * grid**2
        costs = (
            class_costs(self.teacher.classifier[0].detach(), sharpness=sharpness) if logit_weight else torch.empty(0)
        )
        self.register_buffer("costs", costs, persistent=False)
        self._ddp_params_and_buffers_to_ignore += ["costs"]
        if feature_weight:
            networks = (self.student, self.teacher)
            width, teacher_width = (network.model.feature_info[-1]["num_chs"] for network in networks)
            self.regressor = connector(width, teacher_width, relu=relu)

    @property
    def reads(self) -> Reads:
        return Reads(maps=int(self.feature_weight != 0), logits=self.logit_weight != 0)

    @property
    def needs_labels(self) -> bool:
        return super().needs_labels or self.logit_weight != 0

    @property
    def decay(self) -> Tensor | float:
        """Factor of `gamma` and `feature_weight` in this epoch: 1 at first, and 0 in the last epoch."""
        epochs, start = self.trainer.max_epochs if self._trainer is not None else None, self.in_epochs("decay_start")
        if epochs in (None, -1) or epochs <= start:
            return 1.0
        share = (self.epoch - start).clamp(min=0) / (epochs - start)
        return (1 + (math.pi * share).cos()) / 2

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        losses = {}
        if self.logit_weight:
            settings = {**self.sinkhorn, "gamma": self.gamma * self.decay, "costs": self.costs}
            loss = wkd_logit_loss(student.logits, teacher.logits, batch.labels, **settings)
            losses["logit"] = self.logit_weight * loss
        if self.feature_weight:
            pair = self.regressor(student.maps[-1]), teacher.maps[-1]
            loss = wkd_feature_loss(*pair, mean_ratio=self.mean_ratio, grid=self.grid)
            losses["feature"] = self.feature_weight * self.decay * loss
        return losses
