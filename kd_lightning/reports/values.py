"""Check and shorten values from files that may contain anything."""

import json
import math
from typing import Any

import numpy as np

MAX_MAGNITUDE = 1e15
"""Largest valid number in results; the variance of larger numbers could overflow."""


def printable(text: Any, max_length: int = 160) -> str:
    """Return a text as one shortened line without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)[: 4 * max_length]).split())
    return line if len(line) <= max_length else f"{line[: max_length - 3]}..."


def number(value: Any) -> float | None:
    """Return the value if it is a finite number up to MAX_MAGNITUDE; None for everything else, including bools."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= MAX_MAGNITUDE else None  # the comparison is false for NaN


def describe_value(value: Any) -> str:
    """Return a short description of a value."""
    if value is None:
        return "missing"
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_MAGNITUDE:
        return "a number above 1e15"
    return f"{printable(json.dumps(value) if isinstance(value, str) else value, 40)}"


def finite_array(values: Any, *shape: int | None) -> np.ndarray | None:
    """Return nested lists as a float64 array with NaN for null, or None if the shape is wrong.

    A None in `shape` allows any length.
    """
    try:
        array = np.array(values, dtype=object)
        array = np.vectorize(lambda v: math.nan if v is None else _strict(v), otypes=[float])(array)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    matches = array.ndim == len(shape) and all(
        length == expected or expected is None for length, expected in zip(array.shape, shape, strict=True)
    )
    return array if matches and array.size else None


def _strict(value: Any) -> float:
    checked = number(value)
    if checked is None:
        raise ValueError(value)
    return checked
