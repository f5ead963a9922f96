"""Errors with one-line messages, and the nearest choices for these messages."""

import math
from collections.abc import Iterable
from difflib import get_close_matches

from kd_lightning.redaction import printable, redacted


class ConfigError(ValueError):
    """A wrong value in a config, on the command line, or in a file that one of them names.

    The message is one line: the field, the given value, and what is valid. Keys and passwords in it are hidden, and
    control characters are written as `\\x1b`.
    `kd_lightning.cli.main` prints it and exits with status 2.
    """

    def __str__(self) -> str:
        return printable(redacted(super().__str__()))


class RunError(RuntimeError):
    """A run that cannot continue, for example because a loss is not finite or the memory is full.

    The message is one line: what happened, where, and what may help. `kd_lightning.cli.main` prints it and exits with
    its `status`, which is 1 by default.
    """

    status = 1

    def __str__(self) -> str:
        return printable(redacted(super().__str__()))


class StoppedError(BaseException):
    """A run that was stopped by a signal; `status` is 128 plus the signal's number, as in a shell.

    It is not an Exception, so that code that handles errors during a run does not catch it.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def one_line(error: BaseException, most: int = 500) -> str:
    """Return an exception's message as one line of at most `most` characters, with keys hidden.

    If the message is empty, return the name of the exception's class.
    """
    line = printable(redacted(" ".join(str(error).split()))) or type(error).__name__
    return line if len(line) <= most else f"{line[: most - 3]}..."


def check_between(low: float, high: float, **fields: float) -> None:
    """Raise an error if a number is not from `low` to `high`. NaN is not.

    Raises:
        ConfigError: for the first such number; the message names its field.
    """
    for field, value in fields.items():
        if not low <= value <= high:
            raise ConfigError(f"{field}: {value} is not between {low} and {high}")


def check_not_negative(**fields: float) -> None:
    """Raise an error if a number is not finite or is negative.

    Raises:
        ConfigError: for the first such number; the message names its field.
    """
    for field, value in fields.items():
        _check_finite(field, value)
        if value < 0:
            raise ConfigError(f"{field}: {value} is negative")


def check_positive(**fields: float) -> None:
    """Raise an error if a number is not finite or not above 0.

    Raises:
        ConfigError: for the first such number; the message names its field.
    """
    for field, value in fields.items():
        _check_finite(field, value)
        if value <= 0:
            raise ConfigError(f"{field}: {value} is not above 0")


def _check_finite(field: str, value: float) -> None:
    if not math.isfinite(value):
        raise ConfigError(f"{field}: {value} is not a finite number")


def check_temperature(lowest: float = 1e-3, /, **fields: float) -> None:
    """Raise an error if a temperature is not from `lowest` to 10,000. Beyond these limits a loss is 0 or not finite.

    Raises:
        ConfigError: for the first such number; the message names its field.
    """
    check_positive(**fields)
    for field, value in fields.items():
        if not lowest <= value <= _HOTTEST:
            raise ConfigError(
                f"{field}: {value:g} is not from {lowest:g} to {_HOTTEST:g}; the loss would be 0 or infinite"
            )


_HOTTEST = 1e4


def nearest(given: str, choices: Iterable[str], *, most: int = 3) -> str:
    """Return the end of an error message with the choices that are closest in spelling to `given`.

    Upper and lower case are equal for this comparison. If no choice is close, the message lists all choices if there
    are 1 to 12, and is empty otherwise.
    """
    choices = sorted(set(choices))
    spelled: dict[str, list[str]] = {}
    for choice in choices:
        spelled.setdefault(choice.lower(), []).append(choice)
    close = [
        choice for name in get_close_matches(given.lower(), spelled, n=most, cutoff=0.5) for choice in spelled[name]
    ]
    if close:
        return f"; nearest: {', '.join(close[:most])}"
    return f"; choices: {', '.join(choices)}" if 0 < len(choices) <= 12 else ""
