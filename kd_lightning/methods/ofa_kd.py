"""OFAKD: soft targets at several stages of the student, for teachers of any architecture (Hao et al. 2023)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Distiller
from kd_lightning.distillation.downsampling_heads import separable_head, token_head
from kd_lightning.distillation.heads import StageHead
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.functional import full_precision
from kd_lightning.models import Features, Network, Reads


@full_precision
def ofa_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, epsilon: float = 1.0) -> Tensor:
    """Return the mean over N samples of - sum_c ((p_c + 1[c = label])^epsilon - 1[c = label]) log q_c (OFA-KD's code).

    p are the probabilities of the teacher and q those of the student. With epsilon 1, the loss is KD's with a
    temperature of 1 plus the entropy of p. A larger epsilon raises the weight of the label and lowers that of the
    other classes, most of all where the teacher is unsure of the label. With such an epsilon, the loss is not minimal
    where q is p.

    Args:
        student_logits: Logits of the student, or of a head on one of its stages, N,K.
        teacher_logits: Logits of the teacher, N,K.
        labels: Labels N, int64.
        epsilon: Exponent, above 0.
    """
    own = (labels[:, None] == torch.arange(student_logits.shape[1], device=labels.device)).to(student_logits.dtype)
    targets = (F.softmax(teacher_logits, dim=1) + own) ** epsilon - own
    return -(targets * F.log_softmax(student_logits, dim=1)).sum(dim=1).mean()


class OFAKD(Distiller):
    """OFA-KD (Hao et al. 2023, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
    Distillation").

    Several stages of the student get a classifier, called a head, which learns the teacher's probabilities, as the
    final classifier does. Only logits are compared, and therefore the networks may have any architectures. The heads
    are not saved with the student. Checkpoints keep them, so that `EarlyExits` can evaluate them.

    Of the released code: the equation, the weights, and the layers of the heads: separable convolutions if the student
    is a CNN, and merged patches and blocks of a ViT if all its stages have maps of one size. The label of a mixed image
    is that with the larger share. Inferred: the head of a ViT reads its patches after the final norm, and averages
    them, because the maps have no class token.

    Args:
        epsilon: Exponent of the teacher's probability of the label. The released code has 1, and 1.5 for DeiT-T to
            ResNet-18.
        stages: Numbers of the student's stages with a head, counted back from the last stage, which has the number 1.
            Default: all stages except the first, which is the stem in most networks. If there are more than five stages
            (the blocks of a ViT), four stages: with 12 blocks, blocks 2, 4, 10 and 12, as in the released code.
        ofa_weight: Weight of the loss of the final classifier.
        heads_weight: Weight of the sum of the losses of the heads.
        **kwargs: Arguments of every distiller, such as teacher, ce_weight, kd_weight, student, optimizer and
            lr_scheduler.

    Raises:
        ConfigError: if the student has no such stages.
    """

    needs_labels = True

    def __init__(
        self,
        *,
        epsilon: float = 1.0,
        stages: Sequence[int] | None = None,
        ofa_weight: float = 1.0,
        heads_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_positive(epsilon=epsilon)
        self.set_weights(ofa_weight=ofa_weight, heads_weight=heads_weight)
        self.epsilon, self.stages = epsilon, _stages(stages, self.student)
        self.heads = nn.ModuleDict()
        if heads_weight:
            self.heads.update({str(number): self._head(number) for number in self.stages})

    def _head(self, number: int) -> StageHead:
        info, width, classes = self.student.model.feature_info, self.student.embedding_width, self.student.num_classes
        channels, by = info[-number]["num_chs"], info[-number]["reduction"]
        if info[0]["reduction"] == info[-1]["reduction"]:
            side = self.student.size or self.student.model.pretrained_cfg["input_size"][-1]
            depth = max(3 - self.stages.index(number), 1)  # as in the released code: the first head has most blocks
            return token_head(channels, classes, width=width, grid=side // by, depth=depth, init="trunc_normal")
        reduction = max(1, info[-1]["reduction"] // by)
        width = max(width, self.teacher.embedding_width)
        return separable_head(channels, classes, width=width, reduction=reduction, init="fan_out")

    @property
    def reads(self) -> Reads:
        return Reads(maps=self.stages[0] if self.heads_weight else 0, logits=True)

    @property
    def teacher_reads(self) -> Reads:
        return Reads(logits=True)

    @property
    def exits(self) -> Mapping[int, nn.Module]:
        return {int(number): head for number, head in self.heads.items() if number != "1"}

    def losses(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        labels, terms = _main_labels(batch), {}
        if self.ofa_weight:
            loss = ofa_loss(student.logits, teacher.logits, labels, epsilon=self.epsilon)
            terms["ofa"] = self.ofa_weight * loss
        if self.heads_weight:
            logits = [head(student.maps[-int(number)]) for number, head in self.heads.items()]
            losses = [ofa_loss(each, teacher.logits, labels, epsilon=self.epsilon) for each in logits]
            terms["heads"] = self.heads_weight * torch.stack(losses).sum()
        return terms


def _main_labels(batch: Batch) -> Tensor:
    """Return one label for each image: of a mixed image, the label with the larger share."""
    if batch.mix_lambda is None:
        return batch.labels
    return torch.where(batch.mix_lambda >= 0.5, batch.labels, batch.partner_labels)


def _stages(stages: Sequence[int] | None, student: Network) -> list[int]:
    """Return the numbers of the stages with a head, from the first stage to the last."""
    count = len(student.model.feature_info)
    if stages is None and count > 5:
        stages = [count + 1 - round(share * count) for share in (1 / 6, 1 / 3, 5 / 6, 1)]
    elif stages is None:
        stages = [*range(max(count - 1, 1), 0, -1)]
    if not stages or len({*stages}) < len(stages) or not all(1 <= number <= count for number in stages):
        raise ConfigError(
            f"stages: {[*stages]} is given, but {student.name} has {count} stages; give one or more numbers from 1 to "
            f"{count}, each only once"
        )
    return sorted(stages, reverse=True)
