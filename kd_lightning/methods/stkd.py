"""STKD: similarity transfer by virtual samples (Zhao et al. 2021)."""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch, as_float
from kd_lightning.distillation import Distiller, Inputs
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.functional import cross_entropy, full_precision, kd_loss
from kd_lightning.mixing import mix_lambda, partners
from kd_lightning.models import Features, Reads
from kd_lightning.randomness import named_key


class Virtual(NamedTuple):
    """How N virtual samples are made of M images of the batch each."""

    rows: Tensor
    """N,M int64: rows of all images; the first is the sample's own."""
    weights: Tensor
    """N,M float32, each row's sum 1."""


def virtual_samples(keys: Tensor, *, images: int, alpha: float, per: Literal["batch", "sample"]) -> Virtual:
    """Which images of the batch are mixed, and how, from the samples' keys (N int64).

    Two images have the weights share and 1 - share, share from Beta(alpha, alpha); each further one takes a share of
    its own from what there is so far.
    """
    rows, weights = [torch.arange(len(keys), device=keys.device)], torch.ones((len(keys), 1), device=keys.device)
    for number in range(1, images):
        own = named_key(keys, f"STKD image {number}")
        share = mix_lambda(own, alpha, per=per)[:, None]
        rows.append(partners(own))
        weights = torch.cat([weights * share, 1 - share], dim=1)
    return Virtual(torch.stack(rows, dim=1), weights)


@full_precision
def mix(tensor: Tensor, virtual: Virtual) -> Tensor:
    """The weighted sums of rows N,... of a float tensor."""
    parts = [
        tensor[rows] * weight.view(-1, *[1] * (tensor.ndim - 1)).to(tensor.dtype)
        for rows, weight in zip(virtual.rows.unbind(1), virtual.weights.unbind(1), strict=True)
    ]
    return torch.stack(parts).sum(dim=0)


@full_precision
def divergence(student_logits: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """T^2 KL(target || softmax(student / T)) for a target N,K of probabilities: mean over N."""
    log_probabilities = F.log_softmax(student_logits / temperature, dim=1)
    return F.kl_div(log_probabilities, target, reduction="batchmean") * temperature**2


class STKD(Distiller):
    """Similarity transfer (Zhao et al. 2021, "Similarity Transfer for Knowledge Distillation").

    Of the paper, the abstract could be had, and says: virtual samples are weighted sums of several images; teacher and
    student are to have alike distributions on them; mixed labels make use of the wrong classes' similarities. All
    constants here, and the forms of the two terms, are inferred: mixup with Beta(alpha, alpha), KD's soft targets of
    the mixed images, cross-entropy with both labels by their shares. With a share of 1, it is KD.

    Args:
        alpha: of the shares' Beta(alpha, alpha).
        per: a share for the whole batch, or for each sample.
        images: how many images a virtual sample is made of; three are a mixture of two, mixed with a third, and so on.
        labels: `mixed` by the shares, or `hard`: the label of the larger share.
        plain: also the images themselves, with KD's loss; it doubles the time.
        targets: the soft ones: of the `mixed` images by the teacher, or mixed from what it says of the `sources`.
        temperature: of both softmaxes.
        kd_weight: weight of the soft targets.
        ce_weight: weight of the cross-entropy with the labels; 0 needs none.
        **kwargs: teacher, check_teacher, student, optimizer and lr_scheduler, as for every distiller.
    """

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        per: Literal["batch", "sample"] = "batch",
        images: int = 2,
        labels: Literal["mixed", "hard"] = "mixed",
        plain: bool = False,
        targets: Literal["mixed", "sources"] = "mixed",
        temperature: float = 4.0,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(ce_weight=ce_weight, kd_weight=kd_weight, kd_temperature=temperature, **kwargs)
        check_positive(alpha=alpha)
        if images < 2:
            raise ConfigError(f"images: {images} is less than the 2 that can be mixed")
        self.alpha, self.per, self.images, self.labels = alpha, per, images, labels
        self.plain, self.targets = plain, targets

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        if data.mixing:
            raise ConfigError(
                "data.mixing: STKD mixes the images itself, and does not take images that were mixed before"
            )

    def inputs(self, batch: Batch) -> Inputs:
        """Return the virtual images, then, with `plain`, the plain ones; with `sources`, the teacher's are plain."""
        keys, images = self.all_gather(batch.keys, batch.images)
        plain, mixed = as_float(batch.images), mix(as_float(images), self._virtual(keys))
        student = [mixed, plain] if self.plain else [mixed]
        return Inputs(student, student if self.targets == "mixed" else [plain])

    def losses(self, student: list[Features], teacher: list[Features], batch: Batch) -> dict[str, Tensor]:
        keys, labels = self.all_gather(batch.keys, batch.labels)
        virtual, losses = self._virtual(keys), {}
        if self.ce_weight:
            losses["ce"] = self.ce_weight * self._label_loss(student[0].logits, labels, virtual)
        if self.kd_weight and self.targets == "sources":
            probabilities = F.softmax(teacher[0].logits.float() / self.kd_temperature, dim=1)
            target = mix(*self.all_gather(probabilities), virtual)
            losses["kd"] = self.kd_weight * divergence(student[0].logits, target, temperature=self.kd_temperature)
        elif self.kd_weight:
            losses["kd"] = self.kd_weight * self._soft_targets(student[0], teacher[0])
        if self.plain and self.ce_weight:
            losses["plain_ce"] = self.ce_weight * self.cross_entropy(student[1].logits, batch)
        if self.plain and self.kd_weight:
            losses["plain_kd"] = self.kd_weight * self._soft_targets(student[1], teacher[-1])
        return losses

    def _virtual(self, keys: Tensor) -> Virtual:
        virtual = virtual_samples(keys, images=self.images, alpha=self.alpha, per=self.per)
        return Virtual(*map(self.local_rows, virtual))

    def _soft_targets(self, student: Features, teacher: Features) -> Tensor:
        return kd_loss(student.logits, teacher.logits, temperature=self.kd_temperature)

    def _label_loss(self, logits: Tensor, labels: Tensor, virtual: Virtual) -> Tensor:
        labels = labels[virtual.rows]
        if self.labels == "hard":
            largest = virtual.weights.argmax(dim=1, keepdim=True)
            return cross_entropy(logits, labels.gather(1, largest)[:, 0])
        if self.per == "batch":  # a mean for each column, as in KD's own, of which this is then a weighted sum
            each = torch.stack([cross_entropy(logits, column) for column in labels.unbind(1)])
            return (each * virtual.weights[0]).sum()
        each = torch.stack([cross_entropy(logits, c, reduction="none") for c in labels.unbind(1)], dim=1)
        return (each * virtual.weights).sum(dim=1).mean()
