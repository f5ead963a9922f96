"""What STKD sees: images mixed of several, and what both networks say of them."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.analysis.disagreement import draw_shares, name_of
from kd_lightning.batch import Batch, as_float
from kd_lightning.methods.stkd import Virtual, mix


def soft(logits: Tensor, temperature: float) -> Tensor:
    """Soft targets N,K of logits N,K, in float32."""
    return (logits.detach().float() / temperature).softmax(dim=1)


def mixtures(
    batch: Batch, virtual: Virtual, student: Tensor, teacher: Tensor, names: Sequence[str], *, most: int = 4
) -> Figure:
    """A column for each virtual sample: its images with their shares, the mixture, and both networks' soft targets.

    Args:
        batch: N images.
        virtual: how they are mixed, as `virtual_samples` gives it.
        student: soft targets N,K of the mixed images.
        teacher: N,K.
        names: the classes'.
        most: samples that are shown, those whose largest share is the smallest.
    """
    mixed = mix(as_float(batch.images), virtual)
    shown = virtual.weights.amax(dim=1).argsort(stable=True)[:most].tolist()
    sources = virtual.rows.shape[1]
    height = 1.15 * (sources + 1) + 1.6
    figure = Figure(figsize=(1.9 * len(shown), height), layout="constrained", facecolor="white")
    panels = figure.subplots(sources + 2, len(shown), squeeze=False, height_ratios=[1] * (sources + 1) + [1.3])
    for column, number in zip(panels.T, shown, strict=True):
        *pictures, bars = column
        rows, weights = virtual.rows[number].tolist(), virtual.weights[number].tolist()
        for axes, row, weight in zip(pictures, rows, weights, strict=False):
            _picture(axes, as_float(batch.images[row]), f"{weight:.0%} of a {name_of(int(batch.labels[row]), names)}")
        _picture(pictures[-1], mixed[number], "mixed")
        draw_shares(bars, student[number], teacher[number], names, most=5)
    handles, titles = panels[-1, 0].get_legend_handles_labels()
    figure.legend(handles, titles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def _picture(axes: Axes, image: Tensor, title: str) -> None:
    axes.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)
