"""Errors about a network of a config: they begin with the field of the network, such as `model.teacher.checkpoint`."""

import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from kd_lightning.errors import ConfigError

_FIELDS = "checkpoint|model_kwargs|num_classes|mean|std|size|name"
"""Fields of a network with which its messages may begin, after its name."""


def with_field(error: ConfigError, model: Mapping[str, Any]) -> ConfigError:
    """Return the error with the complete field of the network; unchanged if it names a field or is about anything else.

    A network does not know whether it is the student or the teacher. Its arguments in the config decide it.

    Args:
        error: Error that was raised while the objects of a config were built.
        model: The field `model` of the config, with `class_path` and `init_args`, as nested dicts.
    """
    given = next((found for one in _chain(error) if (found := _arguments(one))), None)
    if not given or ConfigError.__str__(error).startswith("model."):
        return error
    networks = _networks(model.get("init_args") or {}, "model")
    fields = [field for field, settings in networks if settings.items() <= given.items()]
    if not fields:
        return error
    name = given["name"].strip("'")
    text = ConfigError.__str__(error).removeprefix(f"{name}: ")
    found = re.match(rf"({_FIELDS})(?=[.:])", text)
    return ConfigError(f"{fields[0]}.{text}" if found else f"{fields[0]}: {name}: {text}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _arguments(error: BaseException) -> dict[str, str] | None:
    """Return the arguments of the network in whose constructor an error was raised; None for other errors."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        values = frame.f_locals
        kind = type(values.get("self"))
        if frame.f_code.co_name == "__init__" and kind.__module__ == "kd_lightning.models.network":
            return {name: repr(values[name]) for name in ("name", *kind.__init__.__kwdefaults__)}
    return None


def _networks(settings: Any, field: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the field and the given arguments of each network in nested settings."""
    if isinstance(settings, dict) and {"name", "checkpoint", "model_kwargs"} <= {*settings}:
        yield field, {name: repr(value) for name, value in settings.items() if value is not None}
    elif isinstance(settings, dict):
        for name, value in settings.items():
            yield from _networks(value, f"{field}.{name}".replace(".init_args", ""))
    elif isinstance(settings, list | tuple):
        for number, value in enumerate(settings):
            yield from _networks(value, f"{field}[{number}]")
