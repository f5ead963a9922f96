"""Combined: several methods in one run, which share one pass of each network."""

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_
from typing import Any

from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import checks, passes
from kd_lightning.distillation.distiller import Distiller
from kd_lightning.distillation.part_hooks import HOOKS, checkpoint_of_part, forward_hooks
from kd_lightning.distillation.parts import PartFactory, build, name_of, overridden, without_networks
from kd_lightning.distillation.passes import FurtherNetwork, Seen
from kd_lightning.distillation.stages import Stages
from kd_lightning.errors import ConfigError
from kd_lightning.models import Features, Reads


@forward_hooks
class Combined(Distiller):
    """Combination of several methods, called parts, which minimises the weighted sum of their terms.

    The student and the teacher run once per step, and all parts use the resulting features. Each part has its own
    arguments, additional layers (heads), queues and hooks. The cross-entropy with the labels and KD's soft targets are
    terms of the combination and not of its parts.

    Args:
        parts: Methods to combine, each with its own arguments. A class can be given only once. Some arguments
            are not given to a part but to the combination, because all parts share them: the networks, the optimizer,
            the schedule, `gather`, and the weights of the cross-entropy and of the soft targets.
        part_weights: List with one factor per part, which multiplies all terms of the part. Default: 1 for each part.
        ce_weight: Weight of the cross-entropy with the labels; 0 disables it.
        kd_weight: Weight of KD's soft targets; 0 disables them. KD itself cannot be a part, because it has no other
            term.
        kd_temperature: Temperature of both softmaxes of the soft targets.
        **kwargs: Arguments of every distiller: teacher, check_teacher, gather, student, optimizer, lr_scheduler,
            lr_batch_size, lr_scaling, freeze, probe_epochs and head_lr_scale.

    Raises:
        ConfigError: if the list of parts is empty, if all their weights are 0, if two parts have the same class, if a
            part sets an argument of the combination, or if a method cannot be a part. Methods without a teacher
            (Supervised, CORSD, OKDMDE, TeacherFreeKD), KD and FunctionMatching (no terms of their own), methods that
            deploy more than the student (ResidualKD, SimKD, and EmbedDistill if the widths differ) and methods that
            override `inputs` (STKD, PCKD, CPCL, MLKD) cannot be parts. A class cannot be a part either if it overrides
            a function of `Distiller` that `Combined` does not call on its parts.
    """

    def __init__(
        self,
        *,
        parts: list[PartFactory],
        part_weights: list[float] | None = None,
        ce_weight: float = 1.0,
        kd_weight: float = 0.0,
        kd_temperature: float = 4.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(ce_weight=ce_weight, kd_weight=kd_weight, kd_temperature=kd_temperature, **kwargs)
        if not parts:
            raise ConfigError("model.parts: the list is empty; give at least one method")
        factors = [1.0] * len(parts) if part_weights is None else part_weights
        if len(factors) != len(parts):
            raise ConfigError(
                f"model.part_weights: {len(factors)} weights are given for {len(parts)} parts; give one per part"
            )
        self.parts = nn.ModuleDict()
        trained = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        for number, factory in enumerate(parts, start=1):
            part = build(factory, number, student=self.student, teacher=self.teacher)
            name = name_of(part, self.parts)
            part.check_terms(ce_weight=ce_weight, kd_weight=kd_weight)
            self.parts[name] = without_networks(part, gather=self.gather)
        for parameter in trained:  # a label-free part has frozen the classifier, but other terms may train it
            parameter.requires_grad_(True)
        self.parts_with = {
            hook: [part for part in self.parts.values() if hook in overridden(type(part))] for hook in HOOKS
        }
        self.factors = dict(zip(self.parts, factors, strict=True))
        for name, factor in self.factors.items():
            checks.check_weight(f"model.part_weights, {name}", factor)
        if not any(factors):
            raise ConfigError(
                "model.part_weights: all weights are 0, so nothing is trained by the parts; set one above 0"
            )
        self.weights |= {f"weight of {name}": factor for name, factor in self.factors.items()}
        for name, part in self.parts.items():
            ignored = part._ddp_params_and_buffers_to_ignore
            self._ddp_params_and_buffers_to_ignore += [f"parts.{name}.{key}" for key in ignored]

    @property
    def reads(self) -> Reads:
        return reduce(or_, (part.reads for part in self.parts.values()))

    @property
    def teacher_reads(self) -> Reads:
        return reduce(or_, (part.teacher_reads for part in self.parts.values()))

    @property
    def further(self) -> Mapping[str, FurtherNetwork]:
        return {f"{name}_{key}": network for name, part in self.parts.items() for key, network in part.further.items()}

    @property
    def exits(self) -> Mapping[int, nn.Module]:
        """The exits of the first part that has some."""
        return next((part.exits for part in self.parts.values() if part.exits), {})

    @property
    def to_teacher(self) -> nn.Module | None:
        """The layers of the first part that maps the student's embedding into the teacher's embedding space."""
        return next((part.to_teacher for part in self.parts.values() if part.to_teacher is not None), None)

    @property
    def needs_labels(self) -> bool:
        return self.ce_weight != 0 or any(part.needs_labels for part in self.parts.values())

    @property
    def trains_classifier(self) -> bool:
        return super().trains_classifier or any(part.trains_classifier for part in self.parts.values())

    def losses(self, student: Seen, teacher: Seen, batch: Batch, **further: Seen) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            part.recording, part.recorded = self.recording, {}
            part_further = {key: further[f"{name}_{key}"] for key in part.further}
            part_features = [passes.only(student, part.reads), passes.only(teacher, part.teacher_reads)]
            checks.check_positions(part, *part_features)
            part_terms = checks.check_returned(part, part.losses(*part_features, batch, **part_further))
            for term, loss in part_terms.items():
                terms[_joined(name, term)] = self.factors[name] * loss
            self.recorded |= {_joined(name, key): value for key, value in part.recorded.items()}
        return terms

    def aligned_pair(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor] | None:
        pairs = (
            part.aligned_pair(student.only(part.reads), teacher.only(part.teacher_reads))
            for part in self.parts.values()
        )
        return next((pair for pair in pairs if pair is not None), None)

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        for part in self.parts.values():
            try:
                part.check_data(data)
            except ConfigError as error:
                raise ConfigError(f"model.parts: {type(part).__name__}: {error}") from error

    @property
    def staged(self) -> Iterable[Stages]:
        return self, *self.parts.values()

    def on_data_ready(self, data: Any) -> None:
        super().on_data_ready(data)
        for part in self.parts.values():
            part.on_data_ready(data)

    def setup(self, stage: str) -> None:
        for part in self.parts.values():
            part.trainer = self.trainer
            part.setup(stage)
        super().setup(stage)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        for name, part in self.parts.items():
            with checkpoint_of_part(checkpoint, name) as part_checkpoint:
                part.on_save_checkpoint(part_checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            with checkpoint_of_part(checkpoint, name) as part_checkpoint:
                part.on_load_checkpoint(part_checkpoint)
        super().on_load_checkpoint(checkpoint)


def _joined(part: str, term: str) -> str:
    """Return the name by which a part's term is logged: `sp` for SP's `sp`, `rkd_angle` for RKD's `angle`."""
    return term if term == part or term.startswith(f"{part}_") else f"{part}_{term}"
