"""EmbedDistill: a student whose queries search the teacher's embeddings (Kim et al. 2023)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import EmbeddingDistiller, galleries
from kd_lightning.errors import check_temperature
from kd_lightning.functional import cosine, full_precision
from kd_lightning.models import Features
from kd_lightning.models.composites import assembled


@full_precision
def embedding_distance(student: Tensor, teacher: Tensor, *, distance: Literal["l2", "mse", "cosine"] = "l2") -> Tensor:
    """Return the mean over N samples of the distance between the embeddings of student and teacher.

    `l2` is the Euclidean distance, which is not squared. `mse` is the mean of the squared differences of all entries.
    `cosine` is 1 minus the cosine. The third-party code (sentence-transformers) refers to Eqs. 7 and 8 of the paper.

    Args:
        student: Embeddings of the student, mapped to the teacher's width, N,D.
        teacher: Embeddings of the teacher, N,D.
        distance: Distance of two embeddings.
    """
    if distance == "l2":
        return (student - teacher).norm(dim=1).mean()
    if distance == "mse":
        return F.mse_loss(student, teacher)
    return 1 - cosine(student, teacher).mean()


@full_precision
def score_loss(
    student_queries: Tensor, teacher_queries: Tensor, gallery: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Return KL(teacher || student) of the scores of the gallery's vectors, averaged over N queries.

    The scores of a query are its inner products with the vectors of the gallery, divided by the temperature. A softmax
    over the gallery makes them probabilities.

    Args:
        student_queries: Embeddings of the student, mapped to the teacher's width, N,D.
        teacher_queries: Embeddings of the teacher for the same images, N,D.
        gallery: Embeddings of the teacher for other images, M,D.
        temperature: Temperature of both softmaxes.
    """
    student, teacher = (queries @ gallery.T / temperature for queries in (student_queries, teacher_queries))
    return F.kl_div(student.log_softmax(dim=1), teacher.log_softmax(dim=1), reduction="batchmean", log_target=True)


class EmbedDistill(EmbeddingDistiller):
    """Geometric distillation (Kim et al. 2023, "EmbedDistill: A Geometric Knowledge Distillation for Information
    Retrieval", arXiv 2301.12005), for images.

    The student learns the teacher's embedding itself, and not only its direction or its neighbours. The student's
    embeddings of queries can therefore be compared with embeddings of a gallery that the teacher has computed: the
    expensive teacher reads the gallery once, and the cheap student reads each query. The evaluator `Retrieval` with
    `gallery: teacher` measures this search. If the widths differ, a linear map takes the student's embedding to the
    width of the teacher's. The search needs this map, so that the deployed network is then the student with the map
    (a `mapped_embedding`): `predict`, `export`, the evaluators and `student.safetensors` have the mapped embedding.

    Only the abstract of the paper was available. Of the paper: the distance between the embeddings, the frozen gallery
    of the teacher, and the divergence between the scores. Of third-party code (sentence-transformers): the distances
    `mse` and `cosine`, and the linear map. Inferred: all weights and the temperature, and images in the place of texts.
    The paper also generates queries. Here, `data.mixing` and the augmentations do so.

    Args:
        distance: Distance between the embeddings of student and teacher: `l2` (of the paper), `mse` or `cosine`.
        temperature: Temperature of both softmaxes of the scores. The scores are products of embeddings that are not
            normalised. With a temperature of 1, they are mostly one-hot, which lowers the accuracy.
        gallery: Path of a safetensors file with the gallery, which the command `embed` has written with the teacher as
            its `model.student` (see docs/label-free.md). Default: the teacher's embeddings of the images of the batch.
        embedding_weight: Weight of the distance between the embeddings.
        score_weight: Weight of the divergence between the scores; 0 disables it.
        ce_weight: Weight of the cross-entropy with the labels. The paper has the loss of its task in its place.
        **kwargs: Arguments of every distiller, such as teacher, kd_weight, student, optimizer and lr_scheduler.

    Raises:
        ConfigError: if the gallery cannot be read, has another width than the teacher's embedding, or was made by
            another network than the teacher.
    """

    def __init__(
        self,
        *,
        distance: Literal["l2", "mse", "cosine"] = "l2",
        temperature: float = 10.0,
        gallery: str | None = None,
        embedding_weight: float = 1.0,
        score_weight: float = 1.0,
        ce_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(ce_weight=ce_weight, **kwargs)
        check_temperature(temperature=temperature)
        self.set_weights(embedding_weight=embedding_weight, score_weight=score_weight)
        self.distance, self.temperature = distance, temperature
        width, teacher_width = self.student.embedding_width, self.teacher.embedding_width
        self.head: nn.Module = nn.Identity()
        if width != teacher_width:
            searching = assembled("mapped_embedding", student=self.student, width=teacher_width)
            self.head = searching.model.head
            self.deploy(searching)
        frozen = torch.empty(0, teacher_width) if gallery is None else galleries.read(gallery, self.teacher)
        self.register_buffer("gallery", frozen, persistent=False)
        self._ddp_params_and_buffers_to_ignore += ["gallery"]

    @property
    def to_teacher(self) -> nn.Module:
        return nn.Identity()  # the embedding of the deployed network is in the teacher's embedding space

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        queries, targets = self.head(student.embedding), teacher.embedding
        losses = {}
        if self.embedding_weight:
            losses["embedding"] = self.embedding_weight * embedding_distance(queries, targets, distance=self.distance)
        if self.score_weight:
            (gallery,) = (self.gallery,) if len(self.gallery) else self.all_gather(targets)
            losses["score"] = self.score_weight * score_loss(queries, targets, gallery, temperature=self.temperature)
        return losses
