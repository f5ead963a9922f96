"""Checks of the code of a method's class: functions that must be properties, and hooks that omit those of the base."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from kd_lightning.errors import ConfigError
from kd_lightning.models import Reads

_BASES = f"{__package__}."
"""Beginning of the module names of the base classes. Their own code is not checked."""


def check_class(kind: type) -> None:
    """Raise an error if a class defines a property of the base as a function, or a hook that omits that of the base.

    A function is always true, so that `def needs_labels(self)` without `@property` would set it, whatever it returns. A
    hook such as `on_train_epoch_start` that does not call `super()` would disable what the base class does there.

    Raises:
        ConfigError: in both cases. The message names the function, its file and its line.
    """
    for own, name, value, base in _overridden(kind):
        code = inspect.unwrap(value).__code__
        where = f"({Path(code.co_filename).name}, line {code.co_firstlineno})"
        if isinstance(base, property):
            raise ConfigError(f"model: {own.__name__}.{name} is a function {where}; write @property above it")
        if _is_hook(name) and name not in names_in(code):
            raise ConfigError(
                f"model: {own.__name__}.{name} {where} does not call super().{name}(...), which the base class needs"
            )


def check_reads(method: Any) -> None:
    """Raise an error if the property `reads` of a method returns anything but `Reads`.

    Raises:
        ConfigError: in this case. The message names the method and the type of the value.
    """
    if not isinstance(method.reads, Reads):
        raise ConfigError(
            f"model: {type(method).__name__}.reads returned a value of type {type(method.reads).__name__}; return "
            "Reads(...), such as Reads(embedding=True)"
        )


def _overridden(kind: type) -> Iterator[tuple[type, str, Any, Any]]:
    """Yield the functions that override an attribute of the base classes: class, name, function and attribute."""
    for number, own in enumerate(kind.__mro__):
        bases = [vars(each) for each in kind.__mro__[number:] if _is_base(each)]
        for name, value in () if _is_base(own) else vars(own).items():
            base = next((attributes[name] for attributes in bases if name in attributes), None)
            if inspect.isfunction(value) and base is not None:
                yield own, name, value, base


def _is_base(kind: type) -> bool:
    return kind.__module__.startswith(_BASES)


def _is_hook(name: str) -> bool:
    return name.startswith("on_") or name.endswith("_step") or name in ("setup", "check_data")


def names_in(code: CodeType) -> set[str]:
    """Return the names of all functions and attributes that a function uses, including its inner functions."""
    inner = (names_in(each) for each in code.co_consts if isinstance(each, CodeType))
    return {*code.co_names}.union(*inner)
