"""The classes that a field takes, and their arguments."""

import importlib
import inspect
from collections.abc import Iterator

_BASES = {
    "model": ("kd_lightning.distillation.StudentModule",),
    "parts": ("kd_lightning.distillation.Distiller",),
    "data": ("kd_lightning.data.ImageData",),
    "augmentations": ("kd_lightning.data.Augmentation",),
    "lr_scheduler": ("kd_lightning.optim.RunSchedule", "torch.optim.lr_scheduler.LRScheduler"),
    "optimizer": ("torch.optim.Optimizer",),
    "callbacks": ("lightning.pytorch.callbacks.Callback",),
    "logger": ("lightning.pytorch.loggers.Logger",),
}
"""Base classes of what a field takes; imported only where the field is wrong."""


def import_class(class_path: str) -> type | None:
    """Return the class of an import path, None if there is none."""
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name, None) if module else None


def arguments_of(class_path: str) -> set[str]:
    """Return the arguments of a class, and those of its bases where it passes **kwargs on; none without a class."""
    owner = import_class(class_path)
    bases = inspect.getmro(owner) if owner else ()
    names = {n for base in bases if "__init__" in vars(base) for n in inspect.signature(base.__init__).parameters}
    return names - {"self", "args", "kwargs"}


def classes_of(field: str) -> set[str]:
    """Return the names of the classes that a field takes."""
    bases = [import_class(path) for path in _BASES.get(field.split(".")[-1].split(":")[0], ())]
    subs = {sub for base in bases for sub in _subclasses(base) if not inspect.isabstract(sub)}
    return {sub.__name__ for sub in subs if not sub.__name__.startswith("_")}


def _subclasses(base: type) -> Iterator[type]:
    for sub in base.__subclasses__():
        yield sub
        yield from _subclasses(sub)
