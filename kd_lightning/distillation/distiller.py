"""Distiller: a student that learns from a frozen teacher."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import checks, passes
from kd_lightning.distillation.passes import Inputs, Seen
from kd_lightning.distillation.student import StudentModule
from kd_lightning.distillation.teacher_store import TeacherStore
from kd_lightning.errors import check_temperature
from kd_lightning.functional import kd_loss
from kd_lightning.models import Features, Network, Reads


class Distiller(StudentModule, ABC):
    """Base class of all methods with a teacher.

    The teacher is frozen: it is in eval mode, and has no gradients. It is not a module of the method. The optimizer,
    checkpoints, DDP and callbacks therefore do not use it (`FrozenNetworks`).

    Args:
        teacher: Network that the student learns from. `pretrained` or `checkpoint` must give its weights. By default
            it has the number of classes for which its weights were trained. If the method reads the teacher's logits,
            the teacher and the data must have the same number of classes.
        kd_weight: Weight of KD's soft targets (Hinton et al. 2015); 0 disables them. Every distiller can use them in
            addition to its own terms.
        kd_temperature: Temperature of both softmaxes of the soft targets.
        check_teacher: Whether to measure the teacher's accuracy once, before training begins, and log it as
            `teacher/acc`. If it is less than 5 percentage points above chance, a warning is printed: the teacher's
            class order, mean or std may be wrong. The accuracy is measured on the validation images. Without a
            validation split, it is measured on up to 5,000 training images without augmentation. It is not measured if
            the data have no labels, or if their classes differ from the teacher's.
        gather: Whether losses that compare samples use the samples of all devices. If false, they use only the samples
            of each device's batch, as in some authors' released code. If true, these losses do not depend on the number
            of devices. The only exception is BatchNorm, which by default normalises the images of each device
            separately. The argument also applies to the samples that SEED adds to its queue and to the samples that
            STKD mixes. It has no effect on methods whose losses do not compare samples (the column "compares samples"
            in docs/methods.md).
        teacher_store: Folder of what the teacher computed for each augmented training image, which later epochs read.
            Default: none, so that the teacher runs in each step.
        **kwargs: Arguments of every method: student, ce_weight, optimizer, lr_scheduler, lr_batch_size, lr_scaling,
            freeze, probe_epochs and head_lr_scale.

    Raises:
        ConfigError: if the teacher has no weights, or if the method reads the teacher's logits and the numbers of
            classes of teacher and student differ.
    """

    def __init__(
        self,
        *,
        teacher: Network,
        kd_weight: float = 0.0,
        kd_temperature: float = 4.0,
        check_teacher: bool = True,
        gather: bool = True,
        teacher_store: TeacherStore | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_temperature(kd_temperature=kd_temperature)
        self.set_weights(kd_weight=kd_weight)
        self.kd_temperature, self.check_teacher, self.gather = kd_temperature, check_teacher, gather
        self.teacher_store = teacher_store
        self.teacher: Network
        self.add_frozen("teacher", teacher)
        self.has_task_classifier = not teacher.fresh_classifier and teacher.num_classes == self.student.num_classes

    def on_built(self) -> None:
        super().on_built()
        soft_targets = Reads(logits=self.kd_weight != 0)
        self.reads_student |= soft_targets
        self.reads_teacher = self.teacher_reads | soft_targets
        """Features of the teacher that a step computes, for `losses` and the soft targets."""
        if checks.needs_labels_without_ce(self):
            checks.check_classes(type(self).__name__, self.student)
        checks.check_teacher(type(self).__name__, self.student, self.teacher, logits=self.reads_teacher.logits)
        self.check_terms(ce_weight=self.ce_weight, kd_weight=self.kd_weight)
        if not self.trains_classifier:  # DistributedDataParallel would wait for gradients that are never computed
            for head in self.classifier_parameters:
                head.requires_grad_(False)

    @property
    def teacher_reads(self) -> Reads:
        """Features of the teacher that `losses` reads. Default: `reads`, the features of both networks."""
        return self.reads

    def check_terms(self, *, ce_weight: float, kd_weight: float) -> None:
        """Raise an error if no term would train a module with these weights. Subclasses implement the check."""

    @property
    def trains_classifier(self) -> bool:
        return super().trains_classifier or self.kd_weight != 0

    @abstractmethod
    def losses(self, student: Seen, teacher: Seen, batch: Batch) -> dict[str, Tensor]:
        """Return the method's own terms by name: float scalars, already multiplied by their weights.

        The sum of all terms is minimised, and each term is logged as `train/<name>`. A term with the name `ce` replaces
        the cross-entropy that the base class adds. A term with the name `kd` replaces the soft targets.
        """

    @torch.no_grad()
    def teacher_features(self, images: passes.Images, reads: Reads) -> Seen:
        """Return the teacher's features of images N,3,H,W, without gradient."""
        self.teacher.eval()  # a caller may have called .train() on one of its modules
        return passes.run(self.teacher, images, reads)

    def stored(self, batch: Batch) -> tuple[Seen, ...]:
        store = self.teacher_store
        return (store.features(self, batch),) if store is not None and store.is_open else ()

    def run_networks(self, inputs: Inputs, *stored: Seen) -> list[Seen]:
        student = super().run_networks(inputs)
        return [*student, *(stored or [self.teacher_features(inputs.teacher, self.reads_teacher)])]

    def on_data_ready(self, data: Any) -> None:
        super().on_data_ready(data)
        if self.teacher_store is not None:
            self.teacher_store.check(self, data)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.teacher_store is not None:
            self.teacher_store.open(self)

    def on_fit_end(self) -> None:
        super().on_fit_end()
        if self.teacher_store is not None:
            self.teacher_store.close()

    def with_base_terms(
        self, terms: dict[str, Tensor], student: Seen, teacher: Seen, batch: Batch
    ) -> dict[str, Tensor]:
        """Return the given terms together with the weighted cross-entropy and the weighted soft targets."""
        terms = super().with_base_terms(terms, student, batch)
        if not self.kd_weight or "kd" in terms or not self.has_base_terms:
            return terms
        logits = (passes.first(features).logits[: len(batch.labels)] for features in (student, teacher))
        return {**terms, "kd": self.kd_weight * kd_loss(*logits, temperature=self.kd_temperature)}

    def aligned_pair(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor] | None:
        """Return the vectors N,D of both networks that the losses make similar. Return None if there are none.

        Args:
            student: Features of the deployed network, which is the student in most methods.
            teacher: Features of the teacher for the same images.
        """
        return None

    @property
    def to_teacher(self) -> nn.Module | None:
        """Layers that map the deployed network's embedding N,D into the teacher's embedding space.

        None if no loss makes the two embeddings similar.
        """
        return None

    @property
    def shared_stages(self) -> int:
        """Number of stages of student or teacher, whichever has fewer."""
        return min(len(network.model.feature_info) for network in (self.student, self.teacher))

    @property
    def stages_after_stem(self) -> int:
        """Default number of stages of a method on several stages, as in RepDistiller: all except the stem.

        It is 4 if both networks have five stages (VGG, MobileNetV2 and ResNet-50 for 32 pixels, timm's ResNets),
        otherwise 3, or all stages if a network has fewer.
        """
        return 4 if self.shared_stages == 5 else min(3, self.shared_stages)

    def check_layer(self, field: str, number: int) -> None:
        """Raise an error if student or teacher has no stage with this number. Stage 1 is the last stage."""
        checks.check_layer(field, number, self.student, self.teacher)

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        checks.check_dtype(self.teacher, data)

    @property
    def evaluation_reads(self) -> Reads:
        return Reads(logits=True) if self.trains_classifier else self.reads | Reads(embedding=True)
