"""IUSPKD: similarities between the positions of an image (based on Cheng et al. 2020)."""

from typing import Any

import torch
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.functional import full_precision, match_spatial, row_normalised_gram
from kd_lightning.models import Features, Reads


@full_precision
def position_similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over N samples of |G_teacher - G_student|^2 / M^2 (inferred from the abstract).

    G is the M,M Gram matrix of the vectors of one sample, with each row normalised to length 1. It is the matrix of SP
    (Tung & Mori 2019, Eq. 2) with positions instead of samples. The loss is 0 if the student's vectors are the
    teacher's vectors times a number and an orthogonal matrix.

    Args:
        student: Vectors of the student at M positions, N,M,D.
        teacher: Vectors of the teacher at the same positions, N,M,E.
    """
    return (row_normalised_gram(teacher) - row_normalised_gram(student)).square().mean()


class IUSPKD(Distiller):
    """Intra-utterance similarity preservation (Cheng et al. 2020, "Intra-Utterance Similarity Preserving Knowledge
    Distillation for Audio Tagging", arXiv 2009.01759), for the positions of an image.

    The student learns to have similar features at two positions of an image if the teacher has similar features there.
    The two networks may have different widths, and one may be a ViT: its positions are its patches. The larger map is
    average-pooled to the size of the smaller map. No image is compared with another image.

    Only the abstract of the paper was available. Of the paper: the pairwise similarities of SP within one utterance
    instead of a batch. Inferred: the equation, the positions of an image in the place of the frames of an utterance,
    and the weight. The weight of SP, 3000, was too large on CIFAR-10 (docs/methods.md).

    Args:
        layers: Number of stages whose feature maps are matched, counted back from the last stage. The last stage of the
            student is matched with the last stage of the teacher, and so on. The losses of all pairs are added.
        position_weight: Weight of the loss.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.

    Raises:
        ConfigError: if a network has fewer stages, or if a pair of maps has only one position.
    """

    min_positions = 2

    def __init__(self, *, layers: int = 1, position_weight: float = 100.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check_layer("layers", layers)
        self.set_weights(position_weight=position_weight)
        self.layers = layers

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.layers)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        pairs = (match_spatial(*maps) for maps in zip(student.maps, teacher.maps, strict=True))
        terms = [position_similarity_loss(*(maps.flatten(2).mT for maps in pair)) for pair in pairs]
        return {"position": self.position_weight * torch.stack(terms).sum()}
