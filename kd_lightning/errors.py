"""The errors that are said in one line, and the nearest names to offer with them."""

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
"""Characters from which on a text can be a key; below, hiding it would hide words."""
_NAMED = re.compile(rf"(\b{_NAME}['\"]?\s*[=:]\s*['\"]?)([^\s'\",}})\]]{{{_SHORTEST},}})", re.IGNORECASE)
_FORM = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|wandb_v\d_\w{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|sk-[\w-]{20,}|AKIA[A-Z0-9]{16}|glpat-[\w-]{20,}|xox[abp]-[\w-]{20,})"
)
_IN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@'\"]+@", re.IGNORECASE)


class ConfigError(ValueError):
    """A wrong value in a config, on the command line or in a file that they name.

    The message is one line: the field, what was given, what would be right; keys and passwords in it are hidden.
    `kd_lightning.cli.main` prints it and exits with status 2.
    """

    def __str__(self) -> str:
        return redacted(super().__str__())


class RunError(RuntimeError):
    """A run that cannot go on: a loss that is not finite, memory that is used up.

    The message is one line: what happened, where, and what may help. `kd_lightning.cli.main` prints it and exits with
    status 1, or the `status` of its own.
    """

    status = 1

    def __str__(self) -> str:
        return redacted(super().__str__())


class StoppedError(BaseException):
    """A run that ended because a signal told it to; `status` is 128 plus the signal's number, as in a shell.

    It is no Exception, so that code which handles errors during a run does not catch it.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def one_line(error: BaseException, most: int = 500) -> str:
    """Return an exception's message as one line, with keys hidden and cut after `most` characters.

    An exception without a message gives the name of its class.
    """
    line = redacted(" ".join(str(error).split())) or type(error).__name__
    return line if len(line) <= most else f"{line[: most - 3]}..."


def check_positive(**fields: float) -> None:
    """Refuses numbers that are not finite and above 0.

    Raises:
        ConfigError: naming the first.
    """
    for field, value in fields.items():
        if not math.isfinite(value):
            raise ConfigError(f"{field}: {value} is not a finite number")
        if value <= 0:
            raise ConfigError(f"{field}: {value} is not above 0")


def nearest(given: str, choices: Iterable[str], *, most: int = 3) -> str:
    """The choices closest in spelling to `given`, as the tail of an error's line; '' if there are no choices."""
    choices = sorted(set(choices))
    close = get_close_matches(given, choices, n=most, cutoff=0.5)
    if not close:  # compare without case, then offer everything where that is short
        by_lower = {choice.lower(): choice for choice in choices}
        close = [by_lower[name] for name in get_close_matches(given.lower(), by_lower, n=most, cutoff=0.5)]
    if close:
        return f"; nearest: {', '.join(close)}"
    return f"; choices: {', '.join(choices)}" if 0 < len(choices) <= 12 else ""


def redacted(text: str) -> str:
    """Return a text with every key in it replaced by `HIDDEN`.

    Hidden are the values of this process's environment variables that are named like a key (WANDB_API_KEY, HF_TOKEN),
    values behind such a name (`api_key=...`, `'token': '...'`), what has the form of a known service's key, and user
    names and passwords in addresses.
    """
    for value in _of_environment():
        text = text.replace(value, HIDDEN)
    text = _IN_ADDRESS.sub(rf"\1{HIDDEN}@", text)
    return _FORM.sub(HIDDEN, _NAMED.sub(rf"\1{HIDDEN}", text))


def is_key(name: str, value: str) -> bool:
    """Return whether a setting or variable of this name holds a key or a password."""
    return len(value) >= _SHORTEST and re.fullmatch(_NAME, name, re.IGNORECASE) is not None


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if is_key(name, value) and not value.startswith(("/", "~")):
            yield value


def secret_field(config: Any, field: str = "") -> str | None:
    """The dotted name of the first value in nested tables and lists that is a key or a password; None if none is."""
    if isinstance(config, dict):
        for name, value in config.items():
            if isinstance(value, str) and is_key(str(name), value):
                return f"{field}.{name}".lstrip(".")
            if found := secret_field(value, f"{field}.{name}".lstrip(".")):
                return found
    elif isinstance(config, list | tuple):
        return next((found for value in config if (found := secret_field(value, field))), None)
    elif isinstance(config, str) and redacted(config) != config:
        return field
    return None
