"""Errors with one-line messages, the nearest choices for these messages, and the hiding of keys and passwords."""

import math
import os
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

HIDDEN = "***"
_NAME = (
    r"[\w-]*(?:api[_-]?key|access[_-]?key|private[_-]?key|secret|passw(?:or)?d|[_-]pass|credentials?|authorization|token)"
    r"(?![a-z])"
)
_SHORTEST = 8
"""Smallest number of characters of a key; hiding shorter texts would hide ordinary words."""
_NAMED = re.compile(rf"(\b{_NAME}['\"]?\s*[=:]\s*['\"]?)([^\s'\",}})\]]{{{_SHORTEST},}})", re.IGNORECASE)
_FORM = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|wandb_v\d_\w{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|sk-[\w-]{20,}|AKIA[A-Z0-9]{16}|glpat-[\w-]{20,}|xox[abp]-[\w-]{20,})"
)
_IN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@'\"]+@", re.IGNORECASE)


class ConfigError(ValueError):
    """A wrong value in a config, on the command line, or in a file that one of them names.

    The message is one line: the field, the given value, and what is valid. Keys and passwords in it are hidden.
    `kd_lightning.cli.main` prints it and exits with status 2.
    """

    def __str__(self) -> str:
        return redacted(super().__str__())


class RunError(RuntimeError):
    """A run that cannot continue, for example because a loss is not finite or the memory is full.

    The message is one line: what happened, where, and what may help. `kd_lightning.cli.main` prints it and exits with
    its `status`, which is 1 by default.
    """

    status = 1

    def __str__(self) -> str:
        return redacted(super().__str__())


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
    line = redacted(" ".join(str(error).split())) or type(error).__name__
    return line if len(line) <= most else f"{line[: most - 3]}..."


def check_positive(**fields: float) -> None:
    """Raise an error if a number is not finite or not above 0.

    Raises:
        ConfigError: for the first such number; the message names its field.
    """
    for field, value in fields.items():
        if not math.isfinite(value):
            raise ConfigError(f"{field}: {value} is not a finite number")
        if value <= 0:
            raise ConfigError(f"{field}: {value} is not above 0")


def nearest(given: str, choices: Iterable[str], *, most: int = 3) -> str:
    """Return the end of an error message with the choices that are closest in spelling to `given`.

    If no choice is close, it lists all choices if there are 1 to 12, and is empty otherwise.
    """
    choices = sorted(set(choices))
    close = get_close_matches(given, choices, n=most, cutoff=0.5)
    if not close:
        by_lower = {choice.lower(): choice for choice in choices}
        close = [by_lower[name] for name in get_close_matches(given.lower(), by_lower, n=most, cutoff=0.5)]
    if close:
        return f"; nearest: {', '.join(close)}"
    return f"; choices: {', '.join(choices)}" if 0 < len(choices) <= 12 else ""


def redacted(text: str) -> str:
    """Return a text in which every key is replaced by `HIDDEN`.

    It hides the values of this process's environment variables that are named like a key (WANDB_API_KEY, HF_TOKEN),
    values after such a name (`api_key=...`, `'token': '...'`), texts in the form of a known service's key, and user
    names and passwords in URLs.
    """
    for value in _environment_keys():
        text = text.replace(value, HIDDEN)
    text = _IN_ADDRESS.sub(rf"\1{HIDDEN}@", text)
    return _FORM.sub(HIDDEN, _NAMED.sub(rf"\1{HIDDEN}", text))


def is_key(name: str, value: str) -> bool:
    """Return whether a setting or variable with this name and value is a key or a password."""
    return len(value) >= _SHORTEST and re.fullmatch(_NAME, name, re.IGNORECASE) is not None


def _environment_keys() -> Iterator[str]:
    for name, value in os.environ.items():
        if is_key(name, value) and not value.startswith(("/", "~")):
            yield value


def secret_field(config: Any, field: str = "") -> str | None:
    """Return the dotted name of the first key or password in nested tables and lists; None if there is none."""
    if isinstance(config, dict):
        for name, value in config.items():
            if isinstance(value, str) and is_key(str(name), value):
                return f"{field}.{name}".lstrip(".")
            if secret := secret_field(value, f"{field}.{name}".lstrip(".")):
                return secret
    elif isinstance(config, list | tuple):
        return next((secret for value in config if (secret := secret_field(value, field))), None)
    elif isinstance(config, str) and redacted(config) != config:
        return field
    return None
