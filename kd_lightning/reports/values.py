"""Values as strangers' files hold them: made printable, or refused."""

import json
import math
from typing import Any

import numpy as np

LARGEST = 1e15
"""Above it a number is none that a probe measures; it would only overflow in a variance."""


def printable(text: Any, most: int = 160) -> str:
    """A text in one line without control characters, shortened."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)[: 4 * most]).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def number(value: Any) -> float | None:
    """A finite number of a sane size; None for everything else, bools too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LARGEST else None  # false for NaN too


def kind(value: Any) -> str:
    """What a value is, in words, with its beginning."""
    if value is None:
        return "missing"
    if isinstance(value, dict | list):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST:
        return "a number above 1e15"
    return f"{printable(json.dumps(value) if isinstance(value, str) else value, 40)}"


def finite(values: Any, *shape: int | None) -> np.ndarray | None:
    """Nested lists of numbers as a float64 array of a shape (None: any length), null as NaN; None if they are not."""
    try:
        array = np.array(values, dtype=object)
        array = np.vectorize(lambda v: math.nan if v is None else _strict(v), otypes=[float])(array)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    fits = array.ndim == len(shape) and all(
        have == want or want is None for have, want in zip(array.shape, shape, strict=True)
    )
    return array if fits and array.size else None


def _strict(value: Any) -> float:
    taken = number(value)
    if taken is None:
        raise ValueError(value)
    return taken
