"""Decode some images before the first step, to find data sets that are dark or cannot be read at all."""

from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_warn

from kd_lightning.data.decode import Levels, levels
from kd_lightning.data.formats import Source, UnreadableError
from kd_lightning.errors import ConfigError

MOST_IMAGES = 32
DARK = 1 / 3
"""Share of white. If the brightest pixel of all examined images is darker, a warning is printed."""


def examine(sources: Sequence[Source], *, warn: bool) -> bool:
    """Decode up to 32 images, spread over the data set, and return whether the brightest of their pixels is dark.

    A common cause is a 16-bit file that contains 12-bit values. Images with different numbers of bits per channel are
    examined separately.

    Args:
        sources: Files of a split, as for `EncodedImages`.
        warn: Whether a warning names the range of the values.

    Raises:
        ConfigError: if none of these images can be read.
    """
    rows = torch.linspace(0, len(sources) - 1, min(MOST_IMAGES, len(sources))).long().tolist()
    found: dict[tuple[int, int], dict[str, Levels]] = {}
    for row in rows:
        try:
            level = levels(sources[row])
        except UnreadableError as error:
            reason = str(error)
        else:
            found.setdefault((level.white, level.bits), {})[str(sources.names[row])] = level
    if not found:
        raise none_readable(sources, len(rows), reason)
    dark = False
    for (white, _), group in found.items():
        lowest, highest = min(level.lowest for level in group.values()), max(level.highest for level in group.values())
        if highest >= DARK * white:
            continue
        dark = True
        if warn:
            examined = f"{len(group)} examined image{'s' * (len(group) > 1)} (for example {next(iter(group))})"
            rank_zero_warn(
                f"data.path: the pixel values of {examined} are {lowest:,} to {highest:,}, but white is {white:,}, so "
                "these images are dark; check that the files use the whole range of values"
            )
    return dark


def none_readable(sources: Sequence[Source], count: int, reason: str) -> ConfigError:
    """Return the error for a data set of which none of `count` images can be read."""
    scope = f"{count:,}" if count == len(sources) else f"{count:,} examined"
    return ConfigError(
        f"data.path: none of the {scope} images can be read, for example {sources.names[0]} ({reason}); give "
        "images that can be read"
    )
