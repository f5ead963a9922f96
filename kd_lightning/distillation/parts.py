"""Building and checking the parts of `Combined`."""

import inspect
from collections.abc import Mapping
from typing import Literal, Protocol

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from kd_lightning.distillation.distiller import Distiller
from kd_lightning.distillation.part_hooks import HOOKS
from kd_lightning.distillation.teacher_store import TeacherStore
from kd_lightning.errors import ConfigError
from kd_lightning.models import Network


class PartFactory(Protocol):
    """Type of a part in a config: the class of a method, with values for the method's own arguments.

    A config cannot set the arguments in this signature for a part, because they are arguments of the combination.
    `Combined` passes only the student and the teacher to a part.
    """

    def __call__(
        self,
        *,
        student: Network,
        teacher: Network,
        ce_weight: float = ...,
        kd_weight: float = ...,
        kd_temperature: float = ...,
        check_teacher: bool = ...,
        gather: bool = ...,
        teacher_store: TeacherStore | None = ...,
        optimizer: OptimizerCallable = ...,
        lr_scheduler: LRSchedulerCallable = ...,
        lr_batch_size: int | None = ...,
        lr_scaling: Literal["linear", "sqrt"] = ...,
        freeze: Literal["backbone"] | None = ...,
        probe_epochs: int = ...,
        head_lr_scale: float = ...,
    ) -> Distiller: ...


_SHARED = {*inspect.signature(PartFactory.__call__).parameters} - {"self", "student", "teacher"}
_CALLED = {
    *(
        "reads",
        "teacher_reads",
        "further",
        "exits",
        "to_teacher",
        "losses",
        "aligned_pair",
        "needs_labels",
        "trains_classifier",
        "on_built",
        "setup",
        "record",
    ),
    *(
        "check_data",
        "on_data_ready",
        "training_stages",
        "check_terms",
        "check_layer",
        "check_batch_size",
        "min_batch_size",
        "normalises_vectors",
        "min_views",
        "one_label",
        "min_positions",
        "effective_batch_size",
    ),
    *("set_weights", "all_gather", "local_rows", "log", "log_dict", "on_save_checkpoint", "on_load_checkpoint"),
}
"""Attributes, in addition to `HOOKS`, that a part may override. The combination or the part itself uses them."""


def build(factory: PartFactory, number: int, *, student: Network, teacher: Network) -> Distiller:
    """Return the part that a factory creates.

    Args:
        factory: Class of the method, with values of the method's own arguments.
        number: Number of the part in the list, for messages. The first part has number 1.
        student: Student of the combination.
        teacher: Teacher of the combination.

    Raises:
        ConfigError: if the part is not a method with a teacher, or if its arguments are wrong. The message contains the
            number of the part.
    """
    where, kind = f"model.parts, number {number}", getattr(factory, "func", factory)
    if not callable(factory) or isinstance(factory, nn.Module):
        raise ConfigError(
            f"{where}: {type(factory).__name__} is given as an object; give the class of a method (SP, AT, ...)"
        )
    if inspect.isclass(kind) and not issubclass(kind, Distiller):
        raise ConfigError(f"{where}: {kind.__name__} is not a distiller; give a method with a teacher (SP, AT, ...)")
    if inspect.isabstract(kind):
        raise ConfigError(f"{where}: {kind.__name__} is abstract; give the class of a method (SP, AT, ...)")
    try:
        part = factory(student=student, teacher=teacher)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not isinstance(part, Distiller):
        raise ConfigError(
            f"{where}: the factory returned {type(part).__name__}; give a method with a teacher (SP, AT, ...)"
        )
    return part


def name_of(part: Distiller, previous: Mapping[str, nn.Module]) -> str:
    """Return the name of a part, which is the name of its class in lower case.

    Args:
        part: Part of a combination.
        previous: Parts that precede this part in the list, by name.

    Raises:
        ConfigError: if the method cannot be a part. The message names its class.
    """
    kind = type(part).__name__
    where = f"model.parts: {kind}"
    if kind.lower() in previous:
        raise ConfigError(f"{where} is given twice; give each class only once")
    if "parts" in part._modules:
        raise ConfigError(f"{where} cannot be a part; give its parts instead")
    defined = overridden(type(part))
    if "inputs" in defined:
        raise ConfigError(
            f"{where} cannot be a part, because it makes its own images, which the other parts cannot use; remove "
            "this part"
        )
    if part.deployed is not part.student:
        raise ConfigError(
            f"{where} cannot be a part, because it deploys more than the student ({part.deployed.name}); remove this "
            "part"
        )
    if not {*part.weights} - {"ce_weight", "kd_weight"}:
        raise ConfigError(
            f"{where} cannot be a part, because its only terms are the cross-entropy and the soft targets; remove this "
            "part, and set model.ce_weight and model.kd_weight"
        )
    if not any(weight for name, weight in part.weights.items() if name not in ("ce_weight", "kd_weight")):
        raise ConfigError(f"{where}: all its weights are 0; set at least one weight above 0, or remove the part")
    if shared := _SHARED & part.given:
        field = min(shared)
        raise ConfigError(f"{where}.{field}: all parts share this argument; set model.{field} instead")
    if unused := defined - HOOKS - _CALLED:
        raise ConfigError(
            f"{where} cannot be a part, because its class defines {', '.join(sorted(unused))}, which Combined does not "
            "call; remove this part"
        )
    return kind.lower()


def overridden(kind: type[Distiller]) -> set[str]:
    """Return the names of the public attributes of `Distiller` that a class overrides.

    Attributes of torch's `Module` are excluded, except `forward`.
    """
    static = inspect.getattr_static
    names = (name for name in dir(Distiller) if not name.startswith("_"))
    changed = {name for name in names if static(kind, name) is not static(Distiller, name)}
    return changed - {*dir(nn.Module)} | (changed & {"forward"})


def without_networks(part: Distiller, *, gather: bool) -> Distiller:
    """Return the part, changed so that the combination owns the networks and computes the terms that all parts share.

    The student becomes a plain attribute of the part, like the teacher. It is then no longer a module of the part. The
    part no longer adds a cross-entropy and soft targets, and skips the hooks that are marked `once_per_run`. The part
    gathers samples if the combination does, unless the class of the part sets `gather` to false.
    """
    vars(part)["student"] = part._modules.pop("student")
    del part.frozen_networks["teacher"], part.metrics
    part.is_part = True
    part.ce_weight = part.kd_weight = 0.0
    part.gather = part.gather and gather
    return part
