"""Texts that are safe to print or keep: keys and passwords are hidden, control characters are written as escapes."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from netrc import NetrcParseError, netrc
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
    r"|sk-(?=[\w-]*\d)[\w-]{20,}|[rs]k_(?:live|test)_\w{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{35}"
    r"|glpat-[\w-]{20,}|xox[abprs]-[\w-]{20,}|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)"
    r"|(?<![\w/.@:-])[0-9a-f]{40}(?![\w/.-])"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)
"""Keys of known services, JSON web tokens, W&B's 40 hexadecimal digits (not a commit in a path), and private keys."""
_AFTER = re.compile(r"(\b(?:bearer|basic)\s+)(?=[\w.~+/=-]*[\d=])([\w.~+/-]{8,}=*)", re.IGNORECASE)
_RANDOM = re.compile(r"(?<![\w/.~$+=-])[A-Za-z0-9][\w+/-]{39,}={0,2}(?![\w/.])")
_MIXED = 0.4
"""Smallest share of changes between upper case, lower case and digits in a random key; about 0.2 in a path."""
_IN_ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@'\"]+@", re.IGNORECASE)
_HASH = re.compile("[0-9a-f]{40}")
_NAMES: set[str] = set()
"""Names of runs that have the form of a commit hash, which is also the form of W&B's older keys."""
_AS_GIVEN: dict[str, str] = {}
"""Paths with the values of environment variables, these values, and folders in the cache, with the text to show."""


def redacted(text: str) -> str:
    """Return a text in which keys are hidden, and in which the paths that contain variables are shown as given."""
    for value, given in _AS_GIVEN.items():
        text = text.replace(value, given)
    return hidden(text)


def hidden(text: str) -> str:
    """Return a text in which every key is replaced by `HIDDEN`.

    It hides the values of this process's environment variables that are named like a key (WANDB_API_KEY, HF_TOKEN), the
    passwords in the file .netrc, values after the name of a key (`api_key=...`, `'token': '...'`) or after `Bearer`,
    texts in the form of a key, and user names and passwords in URLs.
    """
    for value in _known_keys():
        text = text.replace(value, HIDDEN)
    text = _IN_ADDRESS.sub(rf"\1{HIDDEN}@", text)
    text = _AFTER.sub(rf"\1{HIDDEN}", _FORM.sub(lambda match: match[0] if match[0] in _NAMES else HIDDEN, text))
    return _RANDOM.sub(lambda match: HIDDEN if _is_random(match[0]) else match[0], _NAMED.sub(rf"\1{HIDDEN}", text))


def printable(text: str, keep: str = "") -> str:
    """Return a text in which the characters that are not printable are written as escapes (`\\x1b`, `\\u202e`).

    They could change the terminal, or the order in which a text is displayed.

    Args:
        text: text to print.
        keep: characters that remain, for example the newline.
    """
    if text.isprintable():
        return text
    shown = (c if c.isprintable() or c in keep or unicodedata.category(c) == "Zs" else _escape(c) for c in text)
    return "".join(shown)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _is_random(text: str) -> bool:
    """Return whether a text changes as often between upper case, lower case and digits as a random text does."""
    kinds = ["U" if c.isupper() else "l" if c.islower() else "d" for c in text if c.isalnum()]
    changes = sum(a != b for a, b in pairwise(kinds))
    return len({*kinds}) == 3 and changes >= _MIXED * (len(kinds) - 1)


def show_as_given(given: str, expanded: str) -> None:
    """Let messages show a path with environment variables as the user gave it (`$DATA/train`), and not expanded."""
    values = ((each[0], os.path.expandvars(each[0])) for each in re.finditer(r"\$(?:\w+|\{[^}]*\})", given))
    unusual = {value: name for name, value in values if len(value) >= _SHORTEST and not value.isalpha()}
    _AS_GIVEN.update({expanded: given, **unusual} if len(expanded) >= 4 and expanded != given else {})


def show_instead(shown: str, path: str) -> None:
    """Let messages show `shown` instead of a path, also at the beginning of the paths of files in this folder."""
    before = {**_AS_GIVEN}
    _AS_GIVEN.clear()
    _AS_GIVEN.update({path: shown} | before)  # first, because `shown` may contain the value of a variable


def is_key(name: str, value: str) -> bool:
    """Return whether a setting or variable with this name and value is a key or a password."""
    return len(value) >= _SHORTEST and re.fullmatch(_NAME, name, re.IGNORECASE) is not None


def allow_names(names: Iterable[Any]) -> None:
    """Let names of runs be commit hashes: show a name of 40 hexadecimal digits, although it has the form of a W&B key.

    A name that is a key of this machine, from the environment or from .netrc (`wandb login`), remains hidden.
    """
    hashes = {name for name in names if isinstance(name, str) and _HASH.fullmatch(name)}
    _NAMES.update(hashes.difference(_known_keys()) if hashes else ())


def _known_keys() -> Iterator[str]:
    for name, value in os.environ.items():
        if is_key(name, value) and not value.startswith(("/", "~")):
            yield value
    yield from _stored_keys(os.environ.get("NETRC") or os.path.expanduser("~/.netrc"))


@cache
def _stored_keys(path: str) -> tuple[str, ...]:
    """Return the passwords in a file .netrc, in which `wandb login` stores its key."""
    try:
        hosts = netrc(path).hosts.values()
    except (OSError, NetrcParseError, UnicodeError):
        return ()
    return tuple(password for *_, password in hosts if password and len(password) >= _SHORTEST)


def secret_field(config: Any, field: str = "") -> str | None:
    """Return the dotted name of the first key or password in nested mappings and lists; None if there is none."""
    if isinstance(config, dict):
        for name, value in config.items():
            if isinstance(value, str) and is_key(str(name), value):
                return f"{field}.{name}".lstrip(".")
            if secret := secret_field(value, f"{field}.{name}".lstrip(".")):
                return secret
    elif isinstance(config, list | tuple):
        return next((secret for value in config if (secret := secret_field(value, field))), None)
    elif isinstance(config, str) and hidden(config) != config:
        return field
    return None
