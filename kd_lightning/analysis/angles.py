"""What TinTeM sees: the teacher's vectors mapped to the student's width, and whether that keeps their angles."""

from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.functional import cosine, full_precision, normalize
from kd_lightning.metrics.cka import check_pair
from kd_lightning.reports.style import COLORS, INK, tidy


class MappedTeacher(NamedTuple):
    """The three sets of vectors of N images that TinTeM is about."""

    student: Tensor
    """N,D."""
    mapped: Tensor
    """N,D: the teacher's behind the head, the teacher in the middle."""
    teacher: Tensor
    """N,E."""


@full_precision
def pair_cosines(vectors: Tensor) -> Tensor:
    """The cosines of all N (N - 1) / 2 pairs of N,D."""
    rows = normalize(vectors.detach())
    above = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
    return (rows @ rows.T)[above[0], above[1]]


def angles(states: dict[str, MappedTeacher]) -> Figure:
    """A row for each state (`before`, `after`): pairs' cosines mapped against the teacher's, and the student's cosines.

    On the line of the left panel the head keeps every angle, which SNE asks of it. At 1 on the right the student points
    where the mapped teacher does, which the cosine asks of it.
    """
    figure = Figure(figsize=(7.4, 0.3 + 2.7 * len(states)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(states), 2, squeeze=False, sharex="col")
    for (left, right), (name, middle) in zip(panels, states.items(), strict=True):
        check_pair(middle.student, middle.teacher)
        theirs, mapped = (pair_cosines(x).cpu().numpy() for x in (middle.teacher, middle.mapped))
        left.hexbin(theirs, mapped, gridsize=32, bins="log", cmap="cividis_r", mincnt=1, linewidths=0.1)
        left.plot([theirs.min(), 1], [theirs.min(), 1], color=COLORS[1], linewidth=1.2)
        error = abs(theirs - mapped).mean()
        left.set_title(f"{name}: pairs, {error:.2f} apart", fontsize=10)
        left.set_ylabel("teacher behind the head", fontsize=9)
        points = cosine(*(x.detach().float() for x in (middle.student, middle.mapped))).clamp(-1, 1).cpu().numpy()
        right.hist(points, bins=40, range=(-1, 1), color=COLORS[0])
        right.axvline(points.mean(), color=INK, linewidth=1.2, linestyle="--")
        right.set_title(f"{name}: student to mapped, mean {points.mean():.2f}", fontsize=10)
        right.set_ylabel("images", fontsize=9)
        for axes in (left, right):
            tidy(axes)
            axes.locator_params(axis="x", nbins=5)
    panels[-1, 0].set_xlabel("teacher", fontsize=9)
    panels[-1, 1].set_xlabel("cosine", fontsize=9)
    return figure
