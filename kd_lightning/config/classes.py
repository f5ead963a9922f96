"""The classes that a field accepts, and their arguments."""

import importlib
import inspect
from collections.abc import Iterator
from typing import Any, get_args

_BASES = {
    "model": ("kd_lightning.distillation.StudentModule",),
    "parts": ("kd_lightning.distillation.Distiller",),
    "data": ("kd_lightning.data.ImageData",),
    "augmentations": ("kd_lightning.data.Augmentation",),
    "view_augmentations": ("kd_lightning.data.Augmentation",),
    "lr_scheduler": ("kd_lightning.optim.RunSchedule", "torch.optim.lr_scheduler.LRScheduler"),
    "optimizer": ("torch.optim.Optimizer",),
    "callbacks": ("lightning.pytorch.callbacks.Callback",),
    "logger": ("lightning.pytorch.loggers.Logger",),
}
"""Import paths of the base classes that a field accepts, by field. They are imported only if a value is wrong."""


def import_class(class_path: str) -> type | None:
    """Return the class at an import path.

    Return None if the path contains no module, or if the module does not contain the name.

    Raises:
        ModuleNotFoundError: if the module does not exist.
    """
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name, None) if module else None


def arguments_of(class_path: str) -> set[str]:
    """Return the names of the arguments of a class, and of the base classes to which it passes `**kwargs`.

    Return an empty set if the module has no class of this name.

    Raises:
        ModuleNotFoundError: if the module does not exist.
    """
    kind = import_class(class_path)
    names: set[str] = set()
    for base in inspect.getmro(kind) if kind else ():
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            names |= {each.name for each in parameters}
            if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
                break
    return names - {"self", "args", "kwargs"}


def default_of(kind: type, name: str) -> Any:
    """Return the default of an argument of a class; None for an argument that is unknown or has no default."""
    for base in inspect.getmro(kind):
        parameters = inspect.signature(base.__init__).parameters if "__init__" in vars(base) else {}
        if name in parameters:
            default = parameters[name].default
            return None if default is inspect.Parameter.empty else default
    return None


def accepts_none(class_path: str, name: str) -> bool:
    """Return whether an argument of a class may be None; true for an argument that is unknown or has no type."""
    kind = import_class(class_path)
    for base in inspect.getmro(kind) if kind else ():
        parameters = inspect.signature(base.__init__).parameters if "__init__" in vars(base) else {}
        if name in parameters:
            annotation, default = parameters[name].annotation, parameters[name].default
            is_open = annotation in (inspect.Parameter.empty, Any) or isinstance(annotation, str)
            return default is None or is_open or type(None) in get_args(annotation)
    return True


def bases_of(field: str) -> tuple[type, ...]:
    """Return the base classes that a field accepts; none for a field that takes no class."""
    return tuple(import_class(path) for path in _BASES.get(field.split(".")[-1].split(":")[0], ()))


def base_of(given: object) -> str:
    """Return the field whose base class an object has, as it is written in a config; '' if there is none."""
    fields = {"callbacks": "trainer.callbacks", "logger": "trainer.logger", "augmentations": "data.augmentations"}
    field = next((field for field in _BASES if isinstance(given, bases_of(field))), "")
    return fields.get(field, field)


def classes_of(field: str) -> set[str]:
    """Return the names of the classes that a field accepts."""
    return {kind.__name__ for kind in _kinds(field) if not kind.__name__.startswith("_")}


def paths_of(field: str, name: str) -> list[str]:
    """Return the import paths of the classes with a name that a field accepts."""
    return sorted(f"{kind.__module__}.{name}" for kind in _kinds(field) if kind.__name__ == name)


def _kinds(field: str) -> set[type]:
    found = {kind for base in bases_of(field) for kind in subclasses(base)}
    return {kind for kind in found if not inspect.isabstract(kind)}


def subclasses(base: type) -> Iterator[type]:
    """Yield the classes that derive from a class, directly or not."""
    for kind in base.__subclasses__():
        yield kind
        yield from subclasses(kind)
