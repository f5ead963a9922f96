"""Plot of the similarity matrices that SP compares, with the images sorted by class."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.analysis.images import class_boundaries
from kd_lightning.functional import full_precision, row_normalised_gram
from kd_lightning.methods.sp import sp_loss
from kd_lightning.metrics.cka import check_pair
from kd_lightning.reports.style import label


@full_precision
def sorted_similarities(features: Tensor, labels: Tensor) -> Tensor:
    """Return SP's matrix G, N,N, of features N,... (Tung & Mori 2019, eq. 2), with the images sorted by class."""
    return row_normalised_gram(features.detach().flatten(1)[labels.argsort(stable=True)])


def similarity_matrices(
    student: Tensor, teacher: Tensor, labels: Tensor, names: Sequence[str], *, title: str | None = None
) -> Figure:
    """Plot the teacher's matrix, the student's matrix, and the difference, whose mean square is SP's loss.

    Args:
        student: the student's features N,...; SP uses the last feature map.
        teacher: the teacher's features N,...
        labels: labels N.
        names: class names.
        title: title of the figure; default: the value of the loss.
    """
    check_pair(student, teacher)
    student_matrix, teacher_matrix = (sorted_similarities(x, labels).cpu() for x in (student, teacher))
    edges, middles, classes = class_boundaries(labels.sort().values.cpu())
    figure = Figure(figsize=(8.4, 2.9), layout="constrained", facecolor="white")
    # the scale of the colours excludes the diagonal, because self-similarities are much larger than the other values
    off_diagonal = ~torch.eye(len(student_matrix), dtype=torch.bool)
    values = torch.cat([student_matrix[off_diagonal], teacher_matrix[off_diagonal]])
    shared_scale = {"cmap": "cividis", "vmin": min(0.0, float(values.min())), "vmax": float(values.max())}
    difference = student_matrix - teacher_matrix
    limit = max(1e-9, float(difference.abs().max()))
    scales = (shared_scale, shared_scale, {"cmap": "cividis", "vmin": -limit, "vmax": limit})
    panels, matrices = figure.subplots(1, 3), (teacher_matrix, student_matrix, difference)
    for axes, name, matrix, scale in zip(
        panels, ("teacher", "student", "student - teacher"), matrices, scales, strict=True
    ):
        picture = axes.imshow(matrix.numpy(), interpolation="nearest", **scale)
        for edge in edges if len(edges) <= 30 else ():
            axes.axhline(edge, color="white", linewidth=0.6)
            axes.axvline(edge, color="white", linewidth=0.6)
        ticks = [label(names[number], 10) for number in classes] if len(classes) <= 30 else []
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(middles if ticks else [], ticks, fontsize=8)
        longest_tick = max(map(len, ticks), default=0)
        axes.tick_params(axis="x", rotation=90 if longest_tick > 2 else 0, length=0)
        axes.tick_params(axis="y", length=0)
        axes.set_title(name, fontsize=10)
        bar = figure.colorbar(picture, ax=axes, shrink=0.75, pad=0.02)
        bar.ax.tick_params(labelsize=8)
    loss = float(sp_loss(student.detach(), teacher.detach()))
    figure.suptitle(
        title or f"similarities of {len(labels)} images, sorted by class; SP's loss is {loss:.2e}", fontsize=10
    )
    return figure
