"""Distiller: a student with a frozen teacher beside it."""

import math
from abc import ABC
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from kd_lightning import distributed
from kd_lightning.batch import Batch
from kd_lightning.distillation.student import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.functional import cosine
from kd_lightning.metrics import NeighborOverlap, top1
from kd_lightning.models import Features, Network

_CASTS = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}


class Distiller(StudentModule, ABC):
    """Base of every method with a teacher. The teacher is a constant:

    in eval mode for ever, without gradients, out of the optimizer, out of the checkpoint (which stays strict about
    everything else) and out of what DDP synchronises.

    Args:
        teacher: the network that is imitated; its weights come from `pretrained` or `checkpoint`. Its number of
            classes is its own, never the data's, so that a wrong teacher is refused and not given a random classifier.
        ce_weight: weight of the cross-entropy with the labels; 0 needs no labels.
        check_teacher: measure the teacher's accuracy on the validation images once before epoch 0, log it as
            `teacher/acc`, and warn where it is no better than chance + 5 points (a wrong class order, mean or std).
            Where there is no validation split, on up to 5,000 training images, not augmented.
        gather: relate the samples of all devices' batches with one another (SP, RKD, PKT, DIST, CoSS, TinTeM's global
            term, SEED's queue, STKD's partners), so that a result does not depend on the number of devices; false: of
            each device's own batch, as some released codes do. Other methods have nothing to relate.
        **kwargs: student, optimizer and lr_scheduler, as for every method.

    Raises:
        ConfigError: for a teacher without weights, or one whose logits the method reads and whose classes are not
            the student's.
    """

    least_batch: int = 1
    """The smallest batch that the losses can be computed on, or learnt from."""

    also_seen: Mapping[str, bool] = MappingProxyType({})
    """What `aligned` reads beside the embedding, as `Network.features` takes it."""

    def __init__(
        self,
        *,
        teacher: Network,
        ce_weight: float = 1.0,
        check_teacher: bool = True,
        gather: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.ce_weight, self.gather = ce_weight, gather
        if not self.trains_classifier:  # it gets no gradient, and DistributedDataParallel would wait for one
            heads = self.student.model.get_classifier()
            for head in heads if isinstance(heads, tuple) else (heads,):  # DeiT's distilled networks have two
                head.requires_grad_(False)
        self.teacher = teacher.freeze()
        self.check_teacher = check_teacher
        self._check_classes()
        self.knows_classes = not teacher.fresh_classifier and teacher.num_classes == self.student.num_classes
        self.agreement = nn.ModuleDict({stage: top1(teacher.num_classes) for stage in ("val", "test")})
        self.neighbors = nn.ModuleDict({stage: NeighborOverlap() for stage in ("val", "test")})
        names = [*dict(teacher.named_parameters()), *dict(teacher.named_buffers())]
        # read by DistributedDataParallel: no broadcast of these, no place for them in its buckets
        self._ddp_params_and_buffers_to_ignore = [f"teacher.{name}" for name in names]

    def _check_classes(self) -> None:
        teacher, student = self.teacher, self.student
        if not teacher.has_weights:
            raise ConfigError(
                f"teacher: {teacher.name} has no weights; give teacher.checkpoint a path, or teacher.pretrained: true"
            )
        if "logits" not in self.reads:
            return
        if student.num_classes == 0:
            raise ConfigError(
                f"data.num_classes: {type(self).__name__} reads logits, and the data have no classes; give the "
                f"teacher's number, {teacher.num_classes}"
            )
        if teacher.num_classes != student.num_classes:
            raise ConfigError(
                f"teacher.num_classes: teacher {teacher.name} knows {teacher.num_classes} classes, student and data "
                f"have {student.num_classes}; {type(self).__name__} reads logits: train the teacher on these data first"
            )
        if teacher.fresh_classifier:
            raise ConfigError(
                f"teacher.num_classes: the weights of {teacher.name} were not trained for {teacher.num_classes}, "
                f"so its classifier is random, and {type(self).__name__} reads logits; leave num_classes out"
            )

    @property
    def needs_labels(self) -> bool:
        return self.ce_weight != 0

    def label_loss(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The weighted cross-entropy as `ce`, or nothing where its weight is 0."""
        return {"ce": self.ce_weight * self.cross_entropy(logits, batch)} if self.needs_labels else {}

    @torch.no_grad()
    def teach(self, images: Tensor, **wanted: Any) -> Features:
        """What the teacher sees in images N,3,H,W, without gradient; `wanted` as in `Network.features`."""
        self.teacher.eval()  # someone may have called .train() on a part of it
        return self.teacher.features(images, **wanted)

    def gathered(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The rows N,... of all devices' batches, differentiable; with `gather: false`, as given.

        What a loss relates samples of goes through here; a mean over samples alone need not.
        """
        return tuple(map(distributed.gather, tensors)) if self.gather else tensors

    def own(self, rows: Tensor) -> Tensor:
        """This device's rows of what was `gathered`."""
        return distributed.share(rows) if self.gather else rows

    def aligned(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor] | None:
        """What student and teacher say of each image, N,D both, where the losses bring it together; else None."""
        return None

    def check_weights(self, **weights: float) -> None:
        """Refuses weights of the terms that are negative, not finite, or with `ce_weight` all 0."""
        weights["ce_weight"] = self.ce_weight
        for field, value in weights.items():
            if not 0 <= value < math.inf:
                raise ConfigError(f"{field}: {value} is not a weight; give a finite number, 0 or more")
        if not any(weights.values()):
            raise ConfigError(f"{', '.join(weights)}: all are 0, and nothing would be learnt")

    def check_layer(self, field: str, number: int) -> None:
        """Refuses a stage, counted from the last, which is 1, that one of the networks does not have."""
        for network in (self.student, self.teacher):
            if not 1 <= number <= len(network.model.feature_info):
                raise ConfigError(f"{field}: {number}; {network.name} has 1 to {len(network.model.feature_info)}")

    def check_batch_size(self, size: int, field: str = "data.batch_size") -> None:
        """Refuses fewer images than the losses can be learnt from."""
        if size < self.least_batch:
            raise ConfigError(
                f"{field}: {type(self).__name__} takes {self.least_batch} images or more at a time, and {size} is "
                "too few"
            )

    def related(self, data: Any) -> int:
        """How many images of a step are related with one another."""
        return data.batch_size * data.world if self.gather else data.batch_size

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        self.check_batch_size(self.related(data))
        precision = data.trainer.precision if data.trainer else None
        if self.teacher.dtype not in (None, _CASTS.get(precision, self.teacher.dtype)):
            raise ConfigError(f"teacher.dtype: trainer.precision {precision} casts all weights; leave it out")

    def evaluate(self, batch: Batch, stage: str) -> None:
        """Updates the metrics of a stage with a batch; beside the student's own, how it compares to the teacher:

        the share of images to which both give one class, or, where the classifier is not trained, the share of each
        image's nearest neighbours that are the same to both, and the cosine of what the losses bring together.
        """
        if not self.trains_classifier:
            self._compare(batch, stage)
            return
        logits = self.student(batch.images)
        self.update_accuracy(logits, batch, stage)
        if self.knows_classes:
            self.agreement[stage].update(logits, self.teach(batch.images, logits=True).logits.argmax(dim=1))
            self.log(f"{stage}/agreement", self.agreement[stage], prog_bar=True, batch_size=len(logits))

    def _compare(self, batch: Batch, stage: str) -> None:
        student = self.student.features(batch.images, embedding=True, **self.also_seen)
        teacher = self.teach(batch.images, embedding=True, **self.also_seen)
        count = len(batch.images)
        self.neighbors[stage].update(student.embedding, teacher.embedding)
        self.log(f"{stage}/neighbors", self.neighbors[stage], prog_bar=True, batch_size=count)
        if pair := self.aligned(student, teacher):
            mean = cosine(*(vectors.float() for vectors in pair)).mean()
            self.log(f"{stage}/cosine", mean, prog_bar=True, on_epoch=True, sync_dist=True, batch_size=count)

    def on_train_start(self) -> None:
        data = self.trainer.datamodule
        if not (self.check_teacher and self.knows_classes and data and data.labeled) or self.trainer.global_step:
            return
        accuracy = top1(self.teacher.num_classes).to(self.device)
        with torch.random.fork_rng(devices=[]):  # a loader draws a seed; the student's dropout is not to move by that
            for batch in data.evaluation_loader():
                batch = data.transfer_batch_to_device(batch, self.device, 0)
                with self.trainer.precision_plugin.forward_context():
                    accuracy.update(self.teach(batch.images, logits=True).logits, batch.labels)
        reached, chance = accuracy.compute().item(), 1 / self.teacher.num_classes
        for logger in self.trainer.loggers:
            logger.log_metrics({"teacher/acc": reached}, step=0)
        rank_zero_info(f"teacher {self.teacher.name}: accuracy {reached:.2%} on {data.evaluation_set}")
        if reached < chance + 0.05:
            rank_zero_warn(
                f"teacher/acc is {reached:.1%}, chance is {chance:.1%}: is the teacher's class order that of the data, "
                "and are teacher.mean and teacher.std what it was trained with?"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        kept = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("teacher.")}
        checkpoint["state_dict"] = kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        teacher = {f"teacher.{name}": value for name, value in self.teacher.state_dict().items()}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **teacher}
        super().on_load_checkpoint(checkpoint)


class EmbeddingDistiller(Distiller, ABC):
    """Base of the methods without labels that bring the student's embedding, by a head, to where the teacher's lies.

    The head is theirs to make; it is not part of the student that is kept.
    """

    reads = frozenset({"embedding"})
    head: nn.Module

    def aligned(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        return self.head(student.embedding), teacher.embedding
