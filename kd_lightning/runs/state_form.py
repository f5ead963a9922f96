"""The form of the states in a checkpoint, compared with the states that the objects of a run have."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_lightning.errors import ConfigError

WEIGHTS_ONLY = "to begin with these weights, give the file as model.student.checkpoint"
_OTHER = "has another form"


def odd(path: Path, name: str, problem: str) -> ConfigError:
    """Return the error for a checkpoint with an entry that no run writes.

    Args:
        path: path of the checkpoint.
        name: name of the entry, such as `callbacks.Protocol.seconds`.
        problem: end of the sentence that begins with the name of the entry.
    """
    return ConfigError(
        f"ckpt_path: {path} is not a complete checkpoint of a run: its entry {name} {problem}; give another "
        f"checkpoint. If the file contains a trained student, {WEIGHTS_ONLY}"
    )


def differs(path: Path, name: str, given: Any, expected: Any) -> ConfigError:
    """Return the error for a checkpoint with a setting that differs from the setting of the config."""
    return ConfigError(
        f"ckpt_path: {path} was saved with other settings: its entry {name} is {_shown(given)}, but this config gives "
        f"{_shown(expected)}; use the settings of the checkpoint, or load only the student (model.student.checkpoint)"
    )


def check_form(expected: Any, given: Any, name: str, path: Path) -> None:
    """Raise an error if a state has another form than the state of an object of this run.

    Tables must contain all entries of the expected table, and may contain more. Numbers must be finite, and must not be
    negative if the expected number is not; an infinite number is allowed if the expected number is infinite. Tensors
    must have the expected shape and contain no NaN. An expected value None allows every value.

    Args:
        expected: state of an object that has just been built.
        given: state in the checkpoint.
        name: name of the entry, for the message.
        path: path of the checkpoint, for the message.

    Raises:
        ConfigError: in this case. The message names the entry.
    """
    if isinstance(expected, Mapping):
        if not isinstance(given, Mapping):
            raise odd(path, name, _OTHER)
        for key, value in expected.items():
            if key not in given:
                raise odd(path, f"{name}.{key}", "is missing")
            check_form(value, given[key], f"{name}.{key}", path)
    elif isinstance(expected, list | tuple):
        if not isinstance(given, list | tuple):
            raise odd(path, name, _OTHER)
        for value in given if expected else ():
            check_form(expected[0], value, name, path)
    elif isinstance(expected, Tensor):
        if not isinstance(given, Tensor) or given.shape != expected.shape or given.is_meta or given.isnan().any():
            raise odd(path, name, _OTHER)
    elif isinstance(expected, bool) or not isinstance(expected, int | float | None):
        if not isinstance(given, type(expected)):
            raise odd(path, name, _OTHER)
    elif expected is not None and not _is_number_like(expected, given):
        raise odd(path, name, _OTHER if not is_number(given) else f"is {given}")


def is_number(value: Any) -> bool:
    """Return whether a value is a number, which may be NaN or infinite. True and False are no numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_number_like(expected: float, given: Any) -> bool:
    if not is_number(given) or (isinstance(expected, int) and not isinstance(given, int)):
        return False
    allowed = math.isfinite(given) or (math.isinf(given) and math.isinf(expected))
    return allowed and (given >= 0 or expected < 0 or math.isinf(expected))


def same(expected: Any, given: Any) -> bool:
    """Return whether two settings are equal. Numbers may differ by rounding; a list equals a tuple."""
    if isinstance(expected, Mapping) and isinstance(given, Mapping):
        return expected.keys() == given.keys() and all(same(value, given[key]) for key, value in expected.items())
    if isinstance(expected, list | tuple) and isinstance(given, list | tuple):
        return len(expected) == len(given) and all(map(same, expected, given))
    if isinstance(expected, Tensor) or isinstance(given, Tensor):
        return torch.equal(torch.as_tensor(expected), torch.as_tensor(given)) if _is_plain(expected, given) else False
    if is_number(expected) and is_number(given):
        return math.isclose(expected, given, rel_tol=1e-9)
    return type(expected) is type(given) and expected == given


def _is_plain(*values: Any) -> bool:
    return all(isinstance(value, Tensor) or is_number(value) for value in values)


def _shown(value: Any) -> str:
    text = " ".join(f"{value!r}".split())
    return text if len(text) <= 80 else f"{text[:77]}..."
