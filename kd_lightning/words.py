"""Counts and lists in messages. This module imports no library."""

from collections.abc import Sequence


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as `1 file` or `1,200 files`. Default plural: the singular with s."""
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"


def images_of(split: str, number: int) -> str:
    """Return the number of images of a split, such as `1 validation image`, or `2 images` for another split."""
    kind = {"train": "training ", "val": "validation ", "test": "test "}.get(split, "")
    return counted(number, f"{kind}image")


def megabytes(number: int) -> str:
    """Return a number of bytes as text, such as `1.3 GB` or `0.2 MB`."""
    return f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"


def listed(names: Sequence[str]) -> str:
    """Return names as text: `a`, `a and b`, or `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
