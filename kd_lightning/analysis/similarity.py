"""SP's figure: which images are alike to teacher and to student, as matrices sorted by class."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.analysis.images import runs_of_classes
from kd_lightning.functional import full_precision, row_normalised_gram
from kd_lightning.methods.sp import sp_loss
from kd_lightning.metrics.cka import check_pair
from kd_lightning.reports.style import label


@full_precision
def sorted_similarities(features: Tensor, labels: Tensor) -> Tensor:
    """SP's N,N matrix G of features N,... (Tung & Mori 2019, eq. 2), its images sorted by class."""
    return row_normalised_gram(features.detach()[labels.argsort(stable=True)])


def similarity_matrices(
    student: Tensor, teacher: Tensor, labels: Tensor, names: Sequence[str], *, title: str | None = None
) -> Figure:
    """The teacher's matrix, the student's, and their difference, whose mean square is SP's loss.

    Args:
        student: features N,...; for SP's own, the last feature map.
        teacher: features N,....
        labels: N.
        names: the classes'.
        title: default: the loss.
    """
    check_pair(student, teacher)
    ours, theirs = (sorted_similarities(x, labels).cpu() for x in (student, teacher))
    edges, middles, classes = runs_of_classes(labels.sort().values.cpu())
    figure = Figure(figsize=(8.4, 2.9), layout="constrained", facecolor="white")
    # an image is most like itself: the diagonal alone would take the upper end of the scale
    off_diagonal = ~torch.eye(len(ours), dtype=torch.bool)
    both = torch.cat([ours[off_diagonal], theirs[off_diagonal]])
    shared = {"cmap": "cividis", "vmin": min(0.0, float(both.min())), "vmax": float(both.max())}
    difference = ours - theirs
    reach = max(1e-9, float(difference.abs().max()))
    looks = (shared, shared, {"cmap": "cividis", "vmin": -reach, "vmax": reach})
    panels, parts = figure.subplots(1, 3), (theirs, ours, difference)
    for axes, name, part, look in zip(panels, ("teacher", "student", "student - teacher"), parts, looks, strict=True):
        picture = axes.imshow(part.numpy(), interpolation="nearest", **look)
        for edge in edges if len(edges) <= 30 else ():
            axes.axhline(edge, color="white", linewidth=0.6)
            axes.axvline(edge, color="white", linewidth=0.6)
        ticks = [label(names[number], 10) for number in classes] if len(classes) <= 30 else []
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(middles if ticks else [], ticks, fontsize=8)
        longest = max(map(len, ticks), default=0)
        axes.tick_params(axis="x", rotation=90 if longest > 2 else 0, length=0)
        axes.tick_params(axis="y", length=0)
        axes.set_title(name, fontsize=10)
        bar = figure.colorbar(picture, ax=axes, shrink=0.75, pad=0.02)
        bar.ax.tick_params(labelsize=8)
    loss = float(sp_loss(student.detach(), teacher.detach()))
    figure.suptitle(
        title or f"similarities of {len(labels)} images, sorted by class; SP's loss is {loss:.2e}", fontsize=10
    )
    return figure
