"""Facts that a weight file contains about its network: each fact is checked before it is used."""

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from kd_lightning.batch import LARGEST_SIDE
from kd_lightning.errors import ConfigError

_LARGEST_VALUE = 1e6
"""Largest absolute value of a mean or a standard deviation. Pixels are between 0 and 1."""
_MOST_CLASSES = 10**7
_LONGEST_NAME = 200


def checked(facts: Any, source: str) -> dict[str, Any]:
    """Return the known facts of a weight file. A fact may be null, which means that it is unknown.

    Known facts are those of `Network.facts` and of `student_facts`. Other facts are ignored.

    Args:
        facts: The facts as the file contains them.
        source: Beginning of the error message: the field and the path of the file.

    Raises:
        ConfigError: if the facts are not a dict, or if a known fact has a wrong type or an impossible value.
    """
    if not isinstance(facts, Mapping):
        raise ConfigError(f"{source}: the metadata about the network are {_shown(facts)}; they must be a dict")
    result = {}
    for fact, (is_valid, expected) in _EXPECTED.items():
        if fact not in facts:
            continue
        value = facts[fact]
        if value is not None and not is_valid(value):
            raise ConfigError(f"{source}: the file has {fact} {_shown(value)}, but {fact} must be {expected}")
        result[fact] = list(value) if isinstance(value, tuple) else value
    return result


def check_given(given: Mapping[str, Any], source: str) -> None:
    """Check facts that a config states about a network. A fact may be None, which means that it is not stated.

    Raises:
        ConfigError: if a fact has a wrong type or an impossible value. The rules are those for weight files.
    """
    for fact, value in given.items():
        is_valid, expected = _EXPECTED[fact]
        if value is not None and not is_valid(value):
            raise ConfigError(f"{source}: {fact} is {_shown(value)}; it must be {expected}")


def check_classes(facts: Mapping[str, Any], classes: int, source: str) -> None:
    """Check that the facts of a file fit the number of outputs of the classifier in the file.

    Raises:
        ConfigError: if the number of classes or the number of class names differs from the number of outputs. If the
            file has no classifier, only the number of classes is compared.
    """
    stated = facts.get("num_classes")
    if stated not in (None, classes):
        raise ConfigError(f"{source}: the file has num_classes {stated}, but its classifier has {classes} outputs")
    names = facts.get("class_names")
    if names and classes and len(names) != classes:
        raise ConfigError(f"{source}: the file names {len(names)} classes, but its classifier has {classes} outputs")


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _are_channels(values: Any, above_zero: bool) -> bool:
    """Return whether the value is a list of three numbers of usual size. A bool is not a number."""
    if not isinstance(values, list | tuple) or len(values) != 3:
        return False
    least = 1 / _LARGEST_VALUE if above_zero else -_LARGEST_VALUE
    return all(
        isinstance(value, Real) and not isinstance(value, bool) and least <= value <= _LARGEST_VALUE  # false for NaN
        for value in values
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()


def _are_texts(values: Any) -> bool:
    """Return whether the value is a list of strings. Names may occur twice, as two names of ImageNet's classes do."""
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)


def _are_arguments(values: Any) -> bool:
    return isinstance(values, Mapping) and all(isinstance(name, str) and name.isidentifier() for name in values)


def _is_share(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < value <= 1  # false for NaN


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number with thousands of digits, a deeply nested list
        return f"an unreadable {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_name, f"a string of 1 to {_LONGEST_NAME} printable characters"),
    "num_classes": (lambda value: _is_whole(value, 0, _MOST_CLASSES), "a whole number, 0 or more"),
    "mean": (
        lambda values: _are_channels(values, above_zero=False),
        f"three numbers from {-_LARGEST_VALUE:g} to {_LARGEST_VALUE:g}",
    ),
    "std": (
        lambda values: _are_channels(values, above_zero=True),
        f"three numbers from {1 / _LARGEST_VALUE:g} to {_LARGEST_VALUE:g}",
    ),
    "size": (lambda value: _is_whole(value, 1, LARGEST_SIDE), f"a whole number from 1 to {LARGEST_SIDE}"),
    "class_names": (_are_texts, "a list of strings"),
    "class_ids": (_are_texts, "a list of strings"),
    "model_kwargs": (_are_arguments, "a mapping of arguments to values"),
    "classifier_trained": (lambda value: isinstance(value, bool), "true or false"),
    "side": (lambda value: _is_whole(value, 1, LARGEST_SIDE), f"a whole number from 1 to {LARGEST_SIDE}"),
    "crop_ratio": (_is_share, "a number above 0 and at most 1"),
}
