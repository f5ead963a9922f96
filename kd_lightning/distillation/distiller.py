"""Distiller: a student that learns from a frozen teacher."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from kd_lightning import distributed
from kd_lightning.batch import Batch
from kd_lightning.distillation import checks, passes
from kd_lightning.distillation.passes import Inputs, Seen
from kd_lightning.distillation.run_hooks import once_a_run
from kd_lightning.distillation.student import StudentModule
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.functional import kd_loss
from kd_lightning.models import Features, Network, Reads


class Distiller(StudentModule, ABC):
    """Base of every method with a teacher.

    The teacher is frozen: eval mode, no gradients, excluded from optimizer, checkpoints and DDP's synchronisation.

    Args:
        teacher: the network that the student learns from; its weights come from `pretrained` or `checkpoint`. Its
            number of classes is its own and never the data's, so that a wrong teacher is an error and does not get a
            random classifier.
        kd_weight: weight of KD's soft targets (Hinton et al. 2015), for every method; 0 disables them.
        kd_temperature: temperature of both softmaxes of the soft targets.
        check_teacher: measure the teacher's accuracy on the validation images once before epoch 0, log it as
            `teacher/acc`, and warn about an accuracy below chance + 5 points (a wrong class order, mean or std).
            Without a validation split, it is measured on up to 5,000 training images, not augmented.
        gather: compare samples across the batches of all devices (SP, RKD, PKT, DIST, CoSS, TinTeM's global term,
            SEED's queue, STKD's partners), so that a result does not depend on the number of devices; false: within
            each device's own batch, as some released codes do. Other methods compare no samples.
        **kwargs: student, ce_weight, optimizer and lr_scheduler, as for every method.

    Raises:
        ConfigError: for a teacher without weights, or one whose logits are read and whose classes are not the
            student's.
    """

    min_batch_size: int = 1
    """The smallest batch that the losses can be computed on, or learnt from."""

    def __init__(
        self,
        *,
        teacher: Network,
        kd_weight: float = 0.0,
        kd_temperature: float = 4.0,
        check_teacher: bool = True,
        gather: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_positive(kd_temperature=kd_temperature)
        self.set_weights(kd_weight=kd_weight)
        self.kd_temperature, self.check_teacher, self.gather = kd_temperature, check_teacher, gather
        self.teacher = teacher.freeze()
        self.has_task_classifier = not teacher.fresh_classifier and teacher.num_classes == self.student.num_classes
        names = [*dict(teacher.named_parameters()), *dict(teacher.named_buffers())]
        # read by DistributedDataParallel: no broadcast of these, no place for them in its buckets
        self._ddp_params_and_buffers_to_ignore = [f"teacher.{name}" for name in names]

    def on_built(self) -> None:
        super().on_built()
        soft_targets = Reads(logits=self.kd_weight != 0)
        self.reads_student |= soft_targets
        self.reads_teacher = self.reads | soft_targets
        """The teacher's features that a step computes: what `losses` and the soft targets read."""
        checks.check_teacher(type(self).__name__, self.student, self.teacher, logits=self.reads_teacher.logits)
        self.check_terms(ce_weight=self.ce_weight, kd_weight=self.kd_weight)
        if not self.trains_classifier:  # it gets no gradient, and DistributedDataParallel would wait for one
            heads = self.student.model.get_classifier()
            for head in heads if isinstance(heads, tuple) else (heads,):  # DeiT's distilled networks have two
                head.requires_grad_(False)

    def check_terms(self, *, ce_weight: float, kd_weight: float) -> None:
        """Raise an error for arguments with which the terms, and the base's of these weights, train too little."""

    @property
    def trains_classifier(self) -> bool:
        return super().trains_classifier or self.kd_weight != 0

    @abstractmethod
    def losses(self, student: Seen, teacher: Seen, batch: Batch) -> dict[str, Tensor]:
        """Return the method's own weighted terms by name, float scalars.

        The sum of all terms is minimised, and each is logged as `train/<name>`. Terms called `ce` or `kd` take the
        place of the base's.
        """

    @torch.no_grad()
    def teacher_features(self, images: passes.Images, reads: Reads) -> Seen:
        """Return the teacher's features of images N,3,H,W, without gradient."""
        self.teacher.eval()  # a caller may have called .train() on a part of it
        return passes.run(self.teacher, images, reads)

    def run_networks(self, inputs: Inputs) -> list[Seen]:
        return [*super().run_networks(inputs), self.teacher_features(inputs.teacher, self.reads_teacher)]

    def with_base_terms(
        self, terms: dict[str, Tensor], student: Seen, teacher: Seen, batch: Batch
    ) -> dict[str, Tensor]:
        """Return a method's terms with the weighted cross-entropy before them and the weighted soft targets after."""
        terms = super().with_base_terms(terms, student, batch)
        if not self.kd_weight or "kd" in terms:
            return terms
        logits = (passes.first(seen).logits[: len(batch.labels)] for seen in (student, teacher))
        return {**terms, "kd": self.kd_weight * kd_loss(*logits, temperature=self.kd_temperature)}

    def all_gather(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the rows N,... of all devices' batches, differentiable; with `gather: false`, the tensors as given.

        A loss that compares samples across the batch gathers first; a mean over samples alone need not.
        """
        return tuple(map(distributed.gather, tensors)) if self.gather else tensors

    def local_rows(self, rows: Tensor) -> Tensor:
        """Return this device's rows of a tensor from `all_gather`."""
        return distributed.share(rows) if self.gather else rows

    def aligned_pair(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor] | None:
        """Return the vectors N,D of student and teacher that the losses pull together; None if there are none."""
        return None

    def check_layer(self, field: str, number: int) -> None:
        """Raise an error for a stage, counted from the last, which is 1, that one of the networks does not have."""
        checks.check_layer(field, number, self.student, self.teacher)

    def effective_batch_size(self, data: Any) -> int:
        """Return how many images of a step are compared with one another."""
        return data.batch_size * data.world if self.gather else data.batch_size

    def check_batch_size(self, size: int, field: str = "data.batch_size") -> None:
        """Raise an error for fewer images than the losses can be learnt from."""
        if size < self.min_batch_size:
            raise ConfigError(
                f"{field}: {type(self).__name__} takes {self.min_batch_size} images or more at a time, and {size} is "
                "too few"
            )

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        self.check_batch_size(self.effective_batch_size(data))
        checks.check_dtype(self.teacher, data)

    @property
    def evaluation_reads(self) -> Reads:
        return Reads(logits=True) if self.trains_classifier else self.reads | Reads(embedding=True)

    @once_a_run
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        kept = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("teacher.")}
        checkpoint["state_dict"] = kept

    @once_a_run
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        teacher = {f"teacher.{name}": value for name, value in self.teacher.state_dict().items()}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **teacher}
        super().on_load_checkpoint(checkpoint)
