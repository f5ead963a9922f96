"""KDSVD: relations between the singular vectors of consecutive stages (Lee et al. 2018)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.adapters import connector
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.functional import chunked_sum, full_precision, normalize
from kd_lightning.models import Features, Reads

MORE = 3
"""Number of singular vectors of the student among which the teacher's vectors are looked for, in addition to k."""


@full_precision
def kdsvd_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], *, k: int = 1) -> Tensor:
    """Return the squared differences between the relations of consecutive stages, summed, and averaged over images.

    The map of an image is a matrix of positions by channels (as in RepDistiller). Of each stage, the first k right
    singular vectors of the teacher's map are taken, and for each of them that vector of the student's first k + 3 that
    has the largest absolute cosine with it. Each of the k vectors is multiplied by the teacher's singular value; the k
    singular values of an image are scaled to length 1 before. The relation of entry c of a vector and entry d of the
    vector of the previous stage is exp(-(v_c - w_d)^2 / 8).

    The sign of a singular vector is arbitrary, and the loss depends on it. Here, the largest absolute entry of the
    teacher's vector is positive, and the student's vector has a positive cosine with it. Vectors whose singular value
    is 0 up to rounding are zero vectors here. The gradient of two singular vectors with equal singular values does not
    exist; their part is left out of it. In the released code, the values depend on the library in both cases.

    Args:
        student_maps: Maps of the student from the first stage to the last, each N,C,H,W.
        teacher_maps: Maps of the teacher with the same numbers of channels, each N,C,h,w.
        k: Number of singular vectors of the teacher.
    """
    own, taught = [], []
    for student, teacher in zip(student_maps, teacher_maps, strict=True):
        target, values = singular_vectors(teacher, k)
        signs = target.gather(2, target.abs().argmax(dim=2, keepdim=True)).sign()
        target = target * signs
        vectors, _ = singular_vectors(student, k + MORE)
        cosines = vectors @ target.mT  # N,k + 3,k
        chosen = cosines.abs().argmax(dim=1)
        signs = cosines.gather(1, chosen[:, None]).sign().mT
        vectors = vectors.gather(1, chosen[..., None].expand(-1, -1, vectors.shape[2])) * signs
        scale = normalize(values)[..., None]
        own.append(vectors * scale)
        taught.append(target * scale)
    stages = zip(own[:-1], own[1:], taught[:-1], taught[1:], strict=True)
    terms = [
        chunked_sum(_relation_error, *each, floats_each=4 * k * each[0].shape[2] * each[1].shape[2]) for each in stages
    ]
    return torch.stack(terms).sum() / len(own[0])


def _relation_error(before: Tensor, after: Tensor, taught_before: Tensor, taught_after: Tensor) -> Tensor:
    """Return the summed squared difference of the relations N,k,C,D between vectors N,k,C and N,k,D."""
    pairs = (after, before), (taught_after, taught_before)
    own, taught = ((-(a[..., None] - b[:, :, None]).square() / 8).exp() for a, b in pairs)
    return (own - taught).square().sum()


def singular_vectors(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the first right singular vectors N,R,C of maps N,C,H,W as matrices HW,C, and their singular values N,R.

    R is `count`, or the rank that such a matrix can have if that is lower. The sign of a vector is arbitrary. A vector
    whose singular value is 0 up to rounding is a zero vector.
    """
    matrix = maps.flatten(2).mT
    largest = matrix.detach().abs().amax(dim=(1, 2), keepdim=True)
    largest = torch.where(largest == 0, 1.0, largest)
    matrix = matrix / largest  # so that no square overflows
    wide = matrix.shape[1] < matrix.shape[2]
    gram = matrix @ matrix.mT if wide else matrix.mT @ matrix
    vectors, squares = _Eigenvectors.apply(gram, min(count, gram.shape[1]))
    vectors = normalize(vectors @ matrix) if wide else vectors
    exists = squares > 1e3 * torch.finfo(squares.dtype).eps * squares[:, :1]
    return vectors * exists[..., None], squares.clamp(min=0).sqrt() * largest[:, 0]


class _Eigenvectors(torch.autograd.Function):
    """The eigenvectors N,R,M of symmetric matrices N,M,M with the R largest eigenvalues, and these eigenvalues N,R.

    The gradient of the eigenvalues is left out, because only those of the teacher are used. In torch's gradient, the
    parts of two equal eigenvalues are infinite. Here they are 0.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrices)
        values, vectors = values.flip(1), vectors.mT.flip(1)  # the largest first; rows are vectors
        ctx.save_for_backward(values, vectors)
        largest = values[:, :count].contiguous()
        ctx.mark_non_differentiable(largest)
        return vectors[:, :count].contiguous(), largest

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None]:
        values, vectors = ctx.saved_tensors
        gaps = values[:, : gradient.shape[1], None] - values[:, None]  # N,R,M
        equal = gaps.abs() <= 1e3 * torch.finfo(values.dtype).eps * values[:, :1, None]
        shares = (gradient @ vectors.mT) * torch.where(equal, 0.0, 1 / torch.where(equal, 1.0, gaps))
        whole = vectors[:, : gradient.shape[1]].mT @ shares @ vectors
        return (whole + whole.mT) / 2, None


class KDSVD(Distiller):
    """Distillation with singular value decomposition (Lee, Kim, Song 2018, "Self-supervised Knowledge Distillation
    Using Singular Value Decomposition").

    The maps of a stage are summarised by their first singular vectors. The student learns the relations between the
    vectors of consecutive stages, which describe how the teacher's features flow through its stages.

    *Of RepDistiller's code*: the form over the channels, `k`, the stages and the weight. mdistiller has another form,
    over the columns of the map. *Inferred*: the fixed signs, the handling of zero and of equal singular values, and a
    1x1 convolution without bias (`regressors`) for each stage at which the two networks have different numbers of
    channels. In the released code, different numbers are an error.

    Args:
        layers: Number of stages whose maps are read, 2 or more, counted back from the last stage. Default: 4 if both
            networks have five stages, otherwise 3, as in RepDistiller.
        k: Number of singular vectors of each map.
        kdsvd_weight: Weight of the loss.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.

    Raises:
        ConfigError: if a network has fewer stages, or if a map has only one position, or fewer than `k` positions
            or channels.
    """

    min_positions = 2

    def __init__(self, *, layers: int | None = None, k: int = 1, kdsvd_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layers = self.stages_after_stem if layers is None else layers
        self.check_layer("layers", layers)
        if layers < 2:
            raise ConfigError(f"layers: {layers} is given, but KDSVD compares consecutive stages; give 2 or more")
        check_positive(k=k)
        self.set_weights(kdsvd_weight=kdsvd_weight)
        self.layers, self.k = layers, k
        widths, outputs = (
            [info["num_chs"] for info in network.model.feature_info[-layers:]]
            for network in (self.student, self.teacher)
        )
        if k > min(outputs):
            raise ConfigError(f"k: {k} is given, but a map of {self.teacher.name} has only {min(outputs)} channels")
        self.min_positions = max(2, k)
        self.regressors = nn.ModuleList(map(_regressor, widths, outputs))

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.layers)

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        maps = [regressor(own) for regressor, own in zip(self.regressors, student.maps, strict=True)]
        return {"kdsvd": self.kdsvd_weight * kdsvd_loss(maps, teacher.maps, k=self.k)}


def _regressor(channels: int, output: int) -> nn.Module:
    return nn.Identity() if channels == output else connector(channels, output, norm=False, relu=False)
