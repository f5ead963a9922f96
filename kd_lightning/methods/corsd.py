"""CORSD: relations of image pairs, learnt from the deepest layer at earlier stages, without a teacher (Yu et al. 2023).

The body of the paper could not be read, and there is no released code. Only what the abstract says is *of the paper*.
Everything else here is *inferred*: the heads, the pairs, the layers, all terms and all weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import StudentModule
from kd_lightning.distillation.adapters import linear, mlp
from kd_lightning.distillation.heads import StageHead, bottleneck_head, heads_on, stages_with_heads
from kd_lightning.errors import ConfigError, check_positive, check_temperature
from kd_lightning.functional import full_precision, kd_loss, mixed_cross_entropy
from kd_lightning.models import Features, Reads


def pairs(rows: Tensor) -> Tensor:
    """Return the joined vectors N,2D of the pairs (i, i + 1 mod N) of N vectors of width D."""
    return torch.cat([rows, rows.roll(-1, dims=0)], dim=1)


@full_precision
def relation_distance(relations: Tensor, deepest: Tensor) -> Tensor:
    """Return the mean squared difference between the relations of a stage and those of the deepest layer.

    No gradient reaches the deepest layer.

    Args:
        relations: Relations of the N pairs at a stage, N,D.
        deepest: Relations of the same pairs at the deepest layer, N,D.
    """
    return F.mse_loss(relations, deepest.detach())


class Relation(nn.Module):
    """Relation network: an MLP that maps pairs of embeddings to relations, and a classifier of these relations.

    Args:
        width: Width of an embedding.
        relation_width: Width of a relation. The hidden layer has twice this width.
        classes: Number of classes K.
    """

    def __init__(self, width: int, relation_width: int, classes: int) -> None:
        super().__init__()
        self.network = mlp(2 * width, [2 * relation_width], relation_width)
        self.classifier = linear(relation_width, 2 * classes)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the relations N,`relation_width` of the pairs (i, i + 1 mod N) of N embeddings."""
        return self.network(pairs(embeddings))

    def class_loss(self, relations: Tensor, *labels: Tensor | None) -> Tensor:
        """Return the cross-entropy of the classes of both images of each pair, which the classifier predicts.

        Args:
            relations: Relations N,`relation_width`.
            *labels: Labels, partner labels and lambda of the N images, as for `mixed_cross_entropy`.
        """
        first, second = self.classifier(relations).chunk(2, dim=1)
        others = (each if each is None else each.roll(-1, dims=0) for each in labels)
        return (mixed_cross_entropy(first, *labels) + mixed_cross_entropy(second, *others)) / 2


class CORSD(StudentModule):
    """Relational self-distillation (Yu et al. 2023, "CORSD: Class-Oriented Relational Self Distillation").

    The body of the paper could not be read, and there is no released code. Only the next paragraph is *of the paper*
    (its abstract). All terms, layers and weights are *inferred*: results are no reproduction of the paper.

    Trainable relation networks extract the relations of several images. The relations of the deepest layer are
    transferred to earlier stages of the same network, so that there is no teacher. Auxiliary classifiers make the
    relations class-oriented.

    *Inferred*: the student gets a classifier on several stages, called a head, with the layers of the heads of BYOT
    (Zhang et al. 2019). The heads learn the labels and the soft targets of the final classifier. The relation of two
    images is an MLP of their joined embeddings: those of the student at the deepest layer, and those of the heads. The
    pairs are (image i, image i + 1) in the batch of all devices. Each stage learns the relations of the deepest layer.
    A linear classifier of the relations predicts the classes of both images. The student is saved and exported without
    its heads. Checkpoints keep them, so that `EarlyExits` can evaluate them.

    Args:
        stages: Numbers of the stages with a head, counted back from the last stage, which has the number 1 and no head.
            Default: all stages except the first, which is the stem in most networks, and the last. If the student has
            more than five stages (the blocks of a ViT), three stages.
        relation_width: Width of a relation.
        heads_weight: Weight of the sum of the cross-entropies of the heads.
        heads_kd_weight: Weight of the sum of the soft targets of the heads. They come from the final classifier.
        relation_weight: Weight of the sum of the squared distances between the relations of a stage and those of the
            deepest layer.
        relation_class_weight: Weight of the sum of the cross-entropies of the classifiers of relations.
        temperature: Temperature of both softmaxes of the soft targets.
        **kwargs: Arguments of every method, such as student, ce_weight, optimizer and lr_scheduler.
    """

    min_batch_size = 2

    def __init__(
        self,
        *,
        stages: Sequence[int] | None = None,
        relation_width: int = 64,
        heads_weight: float = 1.0,
        heads_kd_weight: float = 0.1,
        relation_weight: float = 1.0,
        relation_class_weight: float = 0.1,
        temperature: float = 3.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_temperature(temperature=temperature)
        check_positive(relation_width=relation_width)
        self.set_weights(
            heads_weight=heads_weight,
            heads_kd_weight=heads_kd_weight,
            relation_weight=relation_weight,
            relation_class_weight=relation_class_weight,
        )
        if heads_kd_weight and not self.ce_weight:
            raise ConfigError(
                "ce_weight: 0 is given, but the heads learn from the final classifier, which would stay random; set it "
                "above 0, or set heads_kd_weight to 0"
            )
        if relation_weight and not relation_class_weight:
            raise ConfigError(
                "relation_class_weight: 0 is given, but the stages learn the relations of the deepest layer, which "
                "would stay random; set it above 0, or set relation_weight to 0"
            )
        self.temperature, self.stages = temperature, stages_with_heads(stages, self.student)
        width, classes = self.student.embedding_width, self.student.num_classes

        def head(channels: int, reduction: int) -> StageHead:
            return bottleneck_head(channels, classes, width=width, reduction=reduction)

        self.heads = heads_on(self.student, self.stages, head)
        relations = {str(number): Relation(width, relation_width, classes) for number in (*self.stages, 1)}
        self.relations = nn.ModuleDict(relations)

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.stages[0], embedding=True, logits=self.heads_kd_weight != 0)

    @property
    def exits(self) -> Mapping[int, nn.Module]:
        return {number: self.heads[str(number)] for number in self.stages}

    @property
    def needs_labels(self) -> bool:
        return super().needs_labels or self.heads_weight != 0 or self.relation_class_weight != 0

    @property
    def trains_classifier(self) -> bool:
        return self.ce_weight != 0  # no gradient of the soft targets reaches the final classifier

    def losses(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        labels = (batch.labels, batch.partner_labels, batch.mix_lambda)
        embeddings = {n: self.heads[str(n)].embed(student.maps[-n]) for n in self.stages}
        logits = [self.heads[str(n)].classifier(embedding) for n, embedding in embeddings.items()]
        losses = {"heads": [mixed_cross_entropy(each, *labels) for each in logits]}
        if self.heads_kd_weight:
            target = student.logits.detach()
            losses["heads_kd"] = [kd_loss(each, target, temperature=self.temperature) for each in logits]
        if self.relation_class_weight:
            losses |= self._relation_losses({**embeddings, 1: student.embedding}, *labels)
        return {name: getattr(self, f"{name}_weight") * torch.stack(each).sum() for name, each in losses.items()}

    def _relation_losses(self, embeddings: dict[int, Tensor], *labels: Tensor | None) -> dict[str, list[Tensor]]:
        every_label = [each if each is None else self.all_gather(each)[0] for each in labels]
        relations = {n: self.relations[str(n)](*self.all_gather(embedding)) for n, embedding in embeddings.items()}
        return {
            "relation": [relation_distance(relations[n], relations[1]) for n in self.stages],
            "relation_class": [self.relations[str(n)].class_loss(each, *every_label) for n, each in relations.items()],
        }
