"""The parts of `Combined`: how one is built and checked."""

import inspect
from collections.abc import Mapping
from typing import Literal, Protocol

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from kd_lightning.distillation.distiller import Distiller
from kd_lightning.distillation.part_hooks import HOOKS
from kd_lightning.errors import ConfigError
from kd_lightning.models import Network


class PartFactory(Protocol):
    """A method's class with its own arguments, in a config.

    The other arguments are the combination's: a config cannot give them to a part, and `Combined` gives a part the
    student and the teacher alone.
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
        optimizer: OptimizerCallable = ...,
        lr_scheduler: LRSchedulerCallable = ...,
        lr_batch_size: int | None = ...,
        lr_scaling: Literal["linear", "sqrt"] = ...,
    ) -> Distiller: ...


_SHARED = {*inspect.signature(PartFactory.__call__).parameters} - {"self", "student", "teacher"}
_CALLED = {
    *("reads", "further", "losses", "aligned_pair", "needs_labels", "trains_classifier", "on_built", "setup", "record"),
    *("check_data", "check_terms", "check_layer", "check_batch_size", "min_batch_size", "effective_batch_size"),
    *("set_weights", "all_gather", "local_rows", "log", "log_dict", "on_save_checkpoint", "on_load_checkpoint"),
}
"""What else a part may define: the combination or the part itself calls it."""


def build(factory: PartFactory, number: int, *, student: Network, teacher: Network) -> Distiller:
    """Return the part that a factory makes.

    Raises:
        ConfigError: naming the part by its number, or by its class.
    """
    where, kind = f"model.parts, number {number}", getattr(factory, "func", factory)
    if not callable(factory) or isinstance(factory, nn.Module):
        raise ConfigError(
            f"{where}: {type(factory).__name__} is given as an object; give the method's class (SP, AT, ...)"
        )
    if inspect.isclass(kind) and not issubclass(kind, Distiller):
        raise ConfigError(f"{where}: {kind.__name__} is no distiller; a part is a method with a teacher (SP, AT, ...)")
    if inspect.isabstract(kind):
        raise ConfigError(f"{where}: {kind.__name__} is abstract; give a method's class (SP, AT, ...)")
    try:
        part = factory(student=student, teacher=teacher)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not isinstance(part, Distiller):
        raise ConfigError(f"{where}: it made a {type(part).__name__}; a part is a method with a teacher (SP, AT, ...)")
    return part


def name_of(part: Distiller, before: Mapping[str, nn.Module]) -> str:
    """Return the name of a part.

    Raises:
        ConfigError: for a part that cannot be one, naming it.
    """
    kind = type(part).__name__
    where = f"model.parts: {kind}"
    if kind.lower() in before:
        raise ConfigError(f"{where} is given twice; give one part of each class")
    if "parts" in part._modules:
        raise ConfigError(f"{where} cannot be a part; give its parts instead")
    own = overridden(type(part))
    if "inputs" in own:
        raise ConfigError(f"{where} makes its own images for the networks, which other parts do not take; leave it out")
    if not {*part.weights} - {"ce_weight", "kd_weight"}:
        raise ConfigError(
            f"{where} has no terms but those of the labels and the soft targets, which the combination has; leave it "
            "out and give model.ce_weight and model.kd_weight"
        )
    if not any(weight for name, weight in part.weights.items() if name not in ("ce_weight", "kd_weight")):
        raise ConfigError(f"{where}: all its weights are 0; leave it out")
    if given := _SHARED & part.given:
        field = min(given)
        raise ConfigError(f"{where}.{field}: the parts share the combination's; give model.{field}")
    if unused := own - HOOKS - _CALLED:
        raise ConfigError(
            f"{where} defines {', '.join(sorted(unused))}, which a combination does not call; leave it out"
        )
    return kind.lower()


def overridden(kind: type[Distiller]) -> set[str]:
    """Return the names of what a class defines otherwise than `Distiller`, without what torch calls on all modules."""
    static = inspect.getattr_static
    names = (name for name in dir(Distiller) if not name.startswith("_"))
    found = {name for name in names if static(kind, name) is not static(Distiller, name)}
    return found - {*dir(nn.Module)} | (found & {"forward"})


def without_networks(part: Distiller, *, gather: bool) -> Distiller:
    """Return a part that refers to student and teacher, and holds only its own modules.

    Its base adds no terms and does nothing in the hooks. It gathers where the combination does, unless its class fixes
    `gather: false`.
    """
    networks = {name: part._modules.pop(name) for name in ("student", "teacher")}
    vars(part).update(networks)
    del part.accuracy
    part.is_part = True
    part.ce_weight = part.kd_weight = 0.0
    part.gather = part.gather and gather
    return part
