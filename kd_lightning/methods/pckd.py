"""PCKD: preview-based category contrastive learning (arXiv 2410.14143, 2025)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import MLP

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.checks import check_classes
from kd_lightning.errors import ConfigError, check_positive, check_temperature
from kd_lightning.functional import cross_entropy, full_precision, kd_loss, normalize, regression_loss
from kd_lightning.models import Features, Network, Reads

ROTATIONS = 4
"""Rotations of each image: by 0, 90, 180 and 270 degrees."""
_GROWTH = 1.005  # of the preview's limit in an epoch
_EPSILON = 1e-7


@full_precision
def category_scores(vectors: Tensor, weight: Tensor) -> Tensor:
    """Return the scores R,K of vectors R,D: the inner products of the unit vectors with the rows of a weight K,D."""
    return normalize(vectors) @ weight.T


@full_precision
def category_contrast(
    student_scores: Tensor,
    teacher_scores: Tensor,
    labels: Tensor,
    *,
    temperature: float = 4.0,
    base_temperature: float = 0.07,
) -> Tensor:
    """Return the category contrast L_CC of each of R samples, R values (the authors' released code).

    Each sample has two score vectors, so that there are 2R vectors. For each vector i, the value l_i is -T / T0 times
    the mean over its positives p of u_i u_p / T - log sum_k exp(u_i u_k / T). The positives are all other vectors of
    the same class, and the sum is over all other vectors. The value of a sample is the sum of l_i over its two vectors.

    As in the released code, the scores are not scaled to length 1. The largest value of each row is subtracted before
    the exponential, and 1e-7 is added to the sum.

    Args:
        student_scores: Scores of the student's vectors with its own classifier, R,K.
        teacher_scores: Scores of the student's vectors with the teacher's classifier, R,K.
        labels: Classes of the samples, R int64.
        temperature: Temperature T, above 0.
        base_temperature: Temperature T0, above 0.
    """
    scores, labels = torch.cat([student_scores, teacher_scores]), labels.repeat(2)
    own = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positives = (labels[:, None] == labels) & ~own
    similarities = scores @ scores.T / temperature
    similarities = similarities - similarities.detach().amax(dim=1, keepdim=True)
    sums = similarities.exp().masked_fill(own, 0).sum(dim=1, keepdim=True)
    log_probabilities = similarities - torch.log(sums + _EPSILON)
    means = (log_probabilities * positives).sum(dim=1) / positives.sum(dim=1)
    return -temperature / base_temperature * means.view(2, -1).sum(dim=0)


@full_precision
def preview_weights(cross_entropies: Tensor, *, epoch: int | Tensor) -> Tensor:
    """Return the preview weights of N samples (the authors' released code).

    The weight is 1 if the cross-entropy of the sample, divided by the mean over the samples, is at most 1.005^epoch.
    For a larger ratio r, the weight is exp(-r^2). Difficult samples therefore get a small weight in the first epochs.

    Args:
        cross_entropies: Cross-entropies of the samples with their labels, N.
        epoch: Number of the epoch, from 1.
    """
    ratios = cross_entropies / cross_entropies.mean().clamp(min=torch.finfo(cross_entropies.dtype).tiny)
    return torch.where(ratios <= _GROWTH**epoch, 1.0, torch.exp(-ratios.square()))


@full_precision
def center_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference L_CA between the category centers of student and teacher.

    Args:
        student: Category centers of the student, K,D: the weight of its classifier, with the bias as the last column.
        teacher: Category centers of the teacher, K,D.
    """
    return F.mse_loss(student, teacher)


class PCKD(Distiller):
    """Category contrast with preview (Ding et al. 2025, "Preview-based Category Contrastive Learning for Knowledge
    Distillation").

    Both networks look at each image in four rotations. Two linear maps (`student_head`, `teacher_head`) map the
    student's embedding to the inputs of the two classifiers, its own and the teacher's. The category contrast makes the
    scores of images of one class similar to one another, and different from the scores of other classes. The student
    also learns the direction of the teacher's embedding and, if the widths are equal, the teacher's classifier. Preview
    weights multiply the category contrast and the soft targets. A sample whose cross-entropy is far above the mean of
    the batch has a small preview weight. The limit rises from epoch to epoch.

    The text of the paper was not available. Of the released code are all terms, the preview weights, the temperatures,
    and the weights 0.05, 1 and 20, which its README gives. As in the released code, the gradient of the soft targets
    flows through the preview weights, and the gradient of the contrast does not. The command of the README does not set
    the weight of the soft targets, which is 0 by default there. It therefore trains the variant without soft targets,
    which has lower published accuracies than the complete method. So do the defaults here. For the complete method, set
    `kd_weight` above 0; its value in the published runs is unknown. Inferred are BatchNorm and ReLU between the two
    layers of the alignment head, because this file is missing in the released code.

    There are two differences from the released code. The contrast and the mean cross-entropy are those of the samples
    of all devices (`gather`). If the widths differ, the released code omits the term `center` silently; here, an error
    is raised if `center_weight` is above 0.

    Args:
        temperature: Temperature of the category contrast.
        base_temperature: Temperature T0 of the category contrast. Its weight is divided by T0 and multiplied by
            `temperature`.
        contrast_weight: Weight of the category contrast.
        center_weight: Weight of the mean squared difference between the two classifiers. This term needs embeddings of
            equal widths. Default: 1 if the widths are equal, otherwise 0, which means that the term is absent.
        alignment_weight: Weight of the alignment: 2 minus twice the cosine between the output of the alignment head
            and the teacher's embedding.
        hidden: Width of the hidden layer of the alignment head. Default: 16 times the width of the teacher's embedding,
            as in the released code.
        kd_weight: Weight of the soft targets of the unrotated images. The preview weights multiply them.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, student, optimizer and lr_scheduler.

    Raises:
        ConfigError: if a network has no linear classifier or several, if `center_weight` is above 0 although the widths
            differ, or if the data have no labels or mixed images.
    """

    needs_labels = True
    one_label = True

    def __init__(
        self,
        *,
        temperature: float = 4.0,
        base_temperature: float = 0.07,
        contrast_weight: float = 0.05,
        center_weight: float | None = None,
        alignment_weight: float = 20.0,
        hidden: int | None = None,
        kd_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(kd_weight=kd_weight, **kwargs)
        check_classes(type(self).__name__, self.student)
        check_temperature(temperature=temperature, base_temperature=base_temperature)
        self.temperatures = {"temperature": temperature, "base_temperature": base_temperature}
        width, teacher_width = self.student.embedding_width, self.teacher.embedding_width
        if center_weight is None:
            center_weight = float(width == teacher_width)
        elif center_weight > 0 and width != teacher_width:
            raise ConfigError(
                f"center_weight: {center_weight:g} is given, but the embeddings of student and teacher have the widths "
                f"{width} and {teacher_width}, so their classifiers cannot be compared; set it to 0, or omit it"
            )
        hidden = 16 * teacher_width if hidden is None else hidden
        check_positive(hidden=hidden)
        self.set_weights(
            contrast_weight=contrast_weight, center_weight=center_weight, alignment_weight=alignment_weight
        )
        self.student_head, self.teacher_head = nn.Linear(width, width), nn.Linear(width, teacher_width)
        self.alignment_head = MLP(width, [hidden, teacher_width], norm_layer=nn.BatchNorm1d)

    def check_terms(self, *, ce_weight: float, kd_weight: float) -> None:
        for network in (self.student, self.teacher):
            _ = network.classifier  # raises an error if there is not exactly one linear classifier

    @property
    def reads(self) -> Reads:
        return Reads(embedding=True, logits=True)

    def inputs(self, batch: Batch) -> Tensor:
        """Return 4N images: the N images as they are, then all rotated by 90, 180 and 270 degrees."""
        return torch.cat([batch.images.rot90(turns, (2, 3)) for turns in range(ROTATIONS)])

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        logits, teacher_logits = (features.logits[: len(batch.labels)] for features in (student, teacher))
        cross_entropies = cross_entropy(logits, batch.labels, reduction="none")
        preview = preview_weights(*self.all_gather(cross_entropies), epoch=self.epoch)
        self.record("preview", lambda: preview.mean())
        aligned = regression_loss(self.alignment_head(student.embedding), teacher.embedding)
        terms = {
            "contrast": self.contrast_weight
            * (preview.detach().repeat(ROTATIONS) * self._contrast(student, batch)).mean(),
            "alignment": self.alignment_weight * aligned,
        }
        if self.center_weight:
            terms["center"] = self.center_weight * center_loss(*map(_centers, (self.student, self.teacher)))
        if self.kd_weight:
            divergences = kd_loss(logits, teacher_logits, temperature=self.kd_temperature, reduction="none")
            terms["kd"] = self.kd_weight * (self.local_rows(preview) * divergences).mean()
        return terms

    def _contrast(self, student: Features, batch: Batch) -> Tensor:
        """Return the category contrast of the rotated images of all devices."""
        scores = category_scores(self.student_head(student.embedding), self.student.classifier[0])
        teacher_weight = self.teacher.classifier[0].detach()
        teacher_scores = category_scores(self.teacher_head(student.embedding), teacher_weight)
        rows = self.all_gather(scores, teacher_scores, batch.labels.repeat(ROTATIONS))
        return category_contrast(*rows, **self.temperatures)


def _centers(network: Network) -> Tensor:
    """Return the weight of a network's classifier, with the bias as the last column. A bias that is missing is 0."""
    weight, bias = network.classifier
    weight, bias = (weight, weight.new_zeros(len(weight)) if bias is None else bias)
    return torch.cat([weight, bias[:, None]], dim=1)
