"""STKD: similarity transfer by virtual samples (Zhao et al. 2021)."""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.batch import Batch, as_float
from kd_lightning.distillation import Distiller, Inputs
from kd_lightning.errors import ConfigError, check_positive, check_temperature
from kd_lightning.functional import cross_entropy, full_precision, kd_loss, target_divergence
from kd_lightning.mixing import mix_lambda, partners
from kd_lightning.models import Features, Reads
from kd_lightning.randomness import named_key


class Virtual(NamedTuple):
    """The M images of the batch that are mixed into each of N virtual samples, and their weights."""

    rows: Tensor
    """Positions of the images in the batch, N,M int64. The first image of virtual sample n is image n of the batch."""
    weights: Tensor
    """Weights of the images, N,M float32; each row sums to 1."""


def virtual_samples(keys: Tensor, *, images: int, alpha: float, per: Literal["batch", "sample"]) -> Virtual:
    """Return the images and weights of N virtual samples. The keys of the samples determine the random numbers.

    Two images have the weights lambda and 1 - lambda, with lambda from Beta(alpha, alpha). For each further image, a
    new lambda is drawn: the image has the weight 1 - lambda, and the weights of the earlier images are multiplied by
    lambda.

    Args:
        keys: Keys of the samples, N int64.
        images: Number of images per virtual sample.
        alpha: Parameter of the Beta distribution.
        per: Number of draws of lambda: one per `batch`, or one per `sample`.
    """
    rows, weights = [torch.arange(len(keys), device=keys.device)], torch.ones((len(keys), 1), device=keys.device)
    for number in range(1, images):
        image_keys = named_key(keys, f"STKD image {number}")
        share = mix_lambda(image_keys, alpha, per=per)[:, None]
        rows.append(partners(image_keys))
        weights = torch.cat([weights * share, 1 - share], dim=1)
    return Virtual(torch.stack(rows, dim=1), weights)


@full_precision
def mix(tensor: Tensor, virtual: Virtual) -> Tensor:
    """Return weighted sums of the rows of a tensor.

    Args:
        tensor: Float tensor N,...
        virtual: Rows and weights of the sums.
    """
    weighted = [
        tensor[rows] * weight.view(-1, *[1] * (tensor.ndim - 1)).to(tensor.dtype)
        for rows, weight in zip(virtual.rows.unbind(1), virtual.weights.unbind(1), strict=True)
    ]
    return torch.stack(weighted).sum(dim=0)


class STKD(Distiller):
    """Similarity transfer (Zhao et al. 2021, "Similarity Transfer for Knowledge Distillation").

    The student learns the teacher's class probabilities for virtual samples, which are weighted sums of images.

    Only the abstract of the paper was available. According to the abstract, virtual samples are weighted sums of
    several images, and teacher and student should have similar distributions for them. Mixed labels should let the
    student use the similarities between the correct class and the wrong classes. The abstract gives neither the
    constants nor the form of the two terms. Both are inferred. Images are mixed as in mixup: two images have the
    weights lambda and 1 - lambda, with lambda from Beta(alpha, alpha). The first term is KD's soft targets for the
    mixed images. The second term is the cross-entropy with the two labels, weighted by lambda and 1 - lambda. With
    lambda = 1, STKD is KD.

    Args:
        alpha: Parameter of the distribution Beta(alpha, alpha) of lambda.
        per: Number of draws of lambda: one per `batch`, or one per `sample`.
        images: Number of images per virtual sample. A third image is mixed with the mixture of the first two images,
            and so on.
        labels: Labels of a virtual sample. `mixed`: the labels of all its images, with their weights. `hard`: only the
            label of the image with the largest weight.
        plain: Whether the student also learns from the unmixed images, with the loss of KD. This doubles the time of a
            step.
        targets: Source of the soft targets. `mixed`: the teacher's probabilities for the mixed images. `sources`: the
            mixture of the teacher's probabilities for the unmixed images.
        temperature: Temperature of both softmaxes.
        ce_weight: Weight of the cross-entropy with the labels. With 0, no labels are needed.
        kd_weight: Weight of the soft targets.
        **kwargs: Arguments of every distiller, such as teacher, check_teacher, student, optimizer and lr_scheduler.
    """

    mixes_images = True

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
        check_temperature(temperature=temperature)
        super().__init__(ce_weight=ce_weight, kd_weight=kd_weight, kd_temperature=temperature, **kwargs)
        check_positive(alpha=alpha)
        if images < 2:
            raise ConfigError(f"images: {images} is given, but a virtual sample needs 2 or more images")
        self.alpha, self.per, self.images, self.labels = alpha, per, images, labels
        self.plain, self.targets = plain, targets

    @property
    def reads(self) -> Reads:
        return Reads(logits=True)

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        if data.mixing:
            raise ConfigError("data.mixing: STKD mixes the images itself and needs unmixed images; remove data.mixing")

    def inputs(self, batch: Batch) -> Inputs:
        """Return the images of student and teacher: the mixed images, and with `plain` also the unmixed images.

        With `targets: sources`, the teacher gets only the unmixed images.
        """
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
            loss = target_divergence(student[0].logits, target, temperature=self.kd_temperature)
            losses["kd"] = self.kd_weight * loss
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
        if self.per == "batch":  # a weighted sum of means, so that lambda = 1 gives exactly KD's cross-entropy
            means = torch.stack([cross_entropy(logits, column) for column in labels.unbind(1)])
            return (means * virtual.weights[0]).sum()
        sample_losses = [cross_entropy(logits, column, reduction="none") for column in labels.unbind(1)]
        return (torch.stack(sample_losses, dim=1) * virtual.weights).sum(dim=1).mean()
