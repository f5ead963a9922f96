"""Plots for STKD: mixed images with the soft targets of both networks."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.analysis.disagreement import class_label, draw_shares
from kd_lightning.batch import Batch, as_float
from kd_lightning.methods.stkd import Virtual, mix


def soft_targets(logits: Tensor, temperature: float) -> Tensor:
    """Return soft targets N,K of logits N,K, in float32."""
    return (logits.detach().float() / temperature).softmax(dim=1)


def plot_mixtures(
    batch: Batch, virtual: Virtual, student: Tensor, teacher: Tensor, names: Sequence[str], *, max_samples: int = 4
) -> Figure:
    """Plot mixed images, one per column: the source images with their weights, the mixture, and both soft targets.

    Args:
        batch: N images.
        virtual: weights of the mixtures, a result of `virtual_samples`.
        student: the student's soft targets N,K for the mixed images.
        teacher: the teacher's soft targets N,K for the mixed images.
        names: class names.
        max_samples: largest number of mixed images. The images with the most equal weights are shown.
    """
    mixed = mix(as_float(batch.images), virtual)
    selected = virtual.weights.amax(dim=1).argsort(stable=True)[:max_samples].tolist()
    sources = virtual.rows.shape[1]
    height = 1.15 * (sources + 1) + 1.6
    figure = Figure(figsize=(1.9 * len(selected), height), layout="constrained", facecolor="white")
    panels = figure.subplots(sources + 2, len(selected), squeeze=False, height_ratios=[1] * (sources + 1) + [1.3])
    for column, number in zip(panels.T, selected, strict=True):
        *pictures, bars = column
        rows, weights = virtual.rows[number].tolist(), virtual.weights[number].tolist()
        for axes, row, weight in zip(pictures, rows, weights, strict=False):
            _picture(
                axes, as_float(batch.images[row]), f"{weight:.0%} of a {class_label(int(batch.labels[row]), names)}"
            )
        _picture(pictures[-1], mixed[number], "mixed")
        draw_shares(bars, student[number], teacher[number], names, max_classes=5)
    handles, titles = panels[-1, 0].get_legend_handles_labels()
    figure.legend(handles, titles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def _picture(axes: Axes, image: Tensor, title: str) -> None:
    axes.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)
