"""The errors that are said in one line, and the nearest names to offer with them."""

import math
from collections.abc import Iterable
from difflib import get_close_matches

from kd_lightning.secrecy import redacted


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
