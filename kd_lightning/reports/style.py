"""Styles of groups in plots: colours for colour-blind readers (Okabe & Ito), markers and lines that differ in grey."""

import base64
import io
import warnings
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "d")
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 2)), (0, (3, 1)))
TEACHER_COLOR = "#4d4d4d"
INK = "#222222"
WIDTH = 3.9
"""Width of a panel in inches. It is 374 pixels, which is the width of a phone; text of 9 points has 12 pixels."""


class Style(NamedTuple):
    """Style of one group, the same in every plot of a page."""

    color: str
    marker: str
    line: str | tuple


def styles(groups: Iterable[str]) -> dict[str, Style]:
    """Return a style for each group, in their order; the first 77 styles are distinct."""
    return {
        group: Style(COLORS[n % len(COLORS)], MARKERS[n % len(MARKERS)], LINES[n % len(LINES)])
        for n, group in enumerate(dict.fromkeys(groups))
    }


def label(text: str, max_length: int = 34) -> str:
    """Return a shortened text that matplotlib draws literally: not as a formula, and not as a hidden legend entry."""
    text = text if len(text) <= max_length else f"{text[: max_length - 3]}..."
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def size_of(marker: str, points: float) -> float:
    """Return the size at which a marker looks as large as a dot with the given size."""
    return points * {"*": 1.5, "p": 1.15, "<": 1.1, ">": 1.1, "^": 1.1, "v": 1.1, "P": 1.1, "D": 0.85}.get(marker, 1)


def panel(height: float = 2.6, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Return a figure with one plot, without using pyplot."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    tidy(axes)
    return figure, axes


def tidy(axes: Axes, grid: Literal["x", "y", "both"] = "both") -> None:
    axes.tick_params(labelsize=9, colors=INK, length=3)
    axes.grid(axis=grid, color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def legend(figure: Figure, handles: Sequence, names: Sequence[str]) -> None:
    """Add a legend below the plots, in several columns if the names are short; the plots keep their height."""
    if not names:
        return
    longest = max(map(len, names))
    columns = 1 if longest > 24 and len(names) <= 6 else 2 if longest > 12 else 3
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(names) // columns))
    figure.legend(
        handles,
        [label(name, 24 if len(names) > 6 else 40) for name in names],
        loc="outside lower center",
        ncols=min(columns, len(names)),
        fontsize=9,
        frameon=False,
        handlelength=3.2,
        columnspacing=1.2,
    )


def as_uri(figure: Figure, image_format: Literal["svg", "png"] = "svg") -> str:
    """Return a figure as a data URI."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), mpl.rc_context({"svg.fonttype": "path"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # characters missing in the font become boxes
        if image_format == "svg":
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(buffer, format="png", dpi=180)
    mime = {"svg": "image/svg+xml", "png": "image/png"}[image_format]
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
