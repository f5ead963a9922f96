"""Combined: several methods in one run, on one pass of each network."""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Any

from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import checks, passes
from kd_lightning.distillation.distiller import Distiller
from kd_lightning.distillation.part_hooks import HOOKS, forward_hooks, own_checkpoint
from kd_lightning.distillation.parts import PartFactory, build, name_of, overridden, without_networks
from kd_lightning.distillation.passes import FurtherNetwork, Seen
from kd_lightning.errors import ConfigError
from kd_lightning.models import Features, Reads


@forward_hooks
class Combined(Distiller):
    """Several methods at once: the student minimises the weighted sum of their terms.

    Each network runs once a step, for all parts. Every part keeps its own arguments, adapters, queues and hooks; the
    terms of the labels and of KD belong to the combination.

    Args:
        parts: distillers, each with its own arguments; no two of one class. Whatever they share is the combination's:
            networks, optimizer, schedule, the terms of labels and soft targets, gather.
        part_weights: one factor for each part, on all its terms; default: 1 for each.
        ce_weight: weight of the cross-entropy with the labels.
        kd_weight: weight of KD's soft targets; KD itself cannot be a part, since it has no other term.
        kd_temperature: temperature of the soft targets.
        **kwargs: teacher, check_teacher, student, optimizer and lr_scheduler, as for every distiller.

    Raises:
        ConfigError: for an empty list, two parts of one class, a part without a teacher (Supervised), without terms of
            its own (KD), with `inputs` of its own (STKD) or another method that a combination does not call, or a part
            in which an argument of the combination is set.
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
            raise ConfigError("model.parts: the list is empty; give one method or more")
        factors = [1.0] * len(parts) if part_weights is None else part_weights
        if len(factors) != len(parts):
            raise ConfigError(f"model.part_weights: {len(factors)} weights are given for {len(parts)} parts")
        self.parts = nn.ModuleDict()
        trained = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        for number, factory in enumerate(parts, start=1):
            part = build(factory, number, student=self.student, teacher=self.teacher)
            name = name_of(part, self.parts)
            part.check_terms(ce_weight=ce_weight, kd_weight=kd_weight)
            self.parts[name] = without_networks(part, gather=self.gather)
        for parameter in trained:  # a label-free part has frozen the classifier, which other terms may train
            parameter.requires_grad_(True)
        self.parts_with = {
            hook: [part for part in self.parts.values() if hook in overridden(type(part))] for hook in HOOKS
        }
        self.factors = dict(zip(self.parts, factors, strict=True))
        for name, factor in self.factors.items():
            checks.check_weight(f"model.part_weights, {name}", factor)
        self.weights |= {f"weight of {name}": factor for name, factor in self.factors.items()}
        for name, part in self.parts.items():
            ignored = (each for each in part._ddp_params_and_buffers_to_ignore if not each.startswith("teacher."))
            self._ddp_params_and_buffers_to_ignore += [f"parts.{name}.{each}" for each in ignored]

    @property
    def reads(self) -> Reads:
        return reduce(or_, (part.reads for part in self.parts.values()))

    @property
    def further(self) -> Mapping[str, FurtherNetwork]:
        return {
            f"{name}_{each}": network for name, part in self.parts.items() for each, network in part.further.items()
        }

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
            own = {each: further[f"{name}_{each}"] for each in part.further}
            seen = (passes.only(each, part.reads) for each in (student, teacher))
            for term, loss in part.losses(*seen, batch, **own).items():
                terms[_joined(name, term)] = self.factors[name] * loss
            self.recorded |= {_joined(name, each): value for each, value in part.recorded.items()}
        return terms

    def aligned_pair(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor] | None:
        pairs = (p.aligned_pair(student.only(p.reads), teacher.only(p.reads)) for p in self.parts.values())
        return next((pair for pair in pairs if pair is not None), None)

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        for part in self.parts.values():
            try:
                part.check_data(data)
            except ConfigError as error:
                raise ConfigError(f"model.parts: {type(part).__name__}: {error}") from error

    def setup(self, stage: str) -> None:
        for part in self.parts.values():
            part.trainer = self.trainer
            part.setup(stage)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        for name, part in self.parts.items():
            with own_checkpoint(checkpoint, name) as own:
                part.on_save_checkpoint(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            with own_checkpoint(checkpoint, name) as own:
                part.on_load_checkpoint(own)
        super().on_load_checkpoint(checkpoint)


def _joined(part: str, term: str) -> str:
    """Return the name of a part's term: `sp` for SP's `sp`, `rkd_angle` for RKD's `angle`."""
    return term if term == part or term.startswith(f"{part}_") else f"{part}_{term}"
