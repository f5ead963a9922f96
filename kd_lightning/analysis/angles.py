"""Plots for TinTeM: whether its map preserves the angles between the teacher's vectors, and what the student learns."""

from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.functional import cosine, full_precision, normalize
from kd_lightning.metrics.cka import check_pair
from kd_lightning.reports.style import COLORS, INK, tidy


class MappedTeacher(NamedTuple):
    """The three sets of vectors that TinTeM compares, for N images."""

    student: Tensor
    """N,D."""
    mapped: Tensor
    """N,D: the teacher's vectors after the head ("teacher in the middle")."""
    teacher: Tensor
    """N,E."""


@full_precision
def pair_cosines(vectors: Tensor) -> Tensor:
    """Return the cosines of all N (N - 1) / 2 pairs of vectors N,D."""
    rows = normalize(vectors.detach())
    above = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
    return (rows @ rows.T)[above[0], above[1]]


def plot_angles(states: dict[str, MappedTeacher]) -> Figure:
    """Plot the cosines of the vectors, with one row of two plots for each state (`before`, `after`).

    The left plot shows pairs of the teacher's vectors: their cosine after the head against their original cosine. A
    pair on the line has the same angle before and after the head, which is the aim of SNE. The right plot is a
    histogram of the cosines between the student's vector and the mapped teacher's vector of an image. The aim of the
    cosine loss is 1, where both vectors have the same direction.
    """
    figure = Figure(figsize=(7.4, 0.3 + 2.7 * len(states)), layout="constrained", facecolor="white")
    panels = figure.subplots(len(states), 2, squeeze=False, sharex="col")
    for (left, right), (name, vectors) in zip(panels, states.items(), strict=True):
        check_pair(vectors.student, vectors.teacher)
        original, mapped = (pair_cosines(x).cpu().numpy() for x in (vectors.teacher, vectors.mapped))
        left.hexbin(original, mapped, gridsize=32, bins="log", cmap="cividis_r", mincnt=1, linewidths=0.1)
        left.plot([original.min(), 1], [original.min(), 1], color=COLORS[1], linewidth=1.2)
        error = abs(original - mapped).mean()
        left.set_title(f"{name}: pairs, {error:.2f} apart", fontsize=10)
        left.set_ylabel("teacher after the head", fontsize=9)
        points = cosine(*(x.detach().float() for x in (vectors.student, vectors.mapped))).clamp(-1, 1).cpu().numpy()
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
