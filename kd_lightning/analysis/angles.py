"""Plots for TinTeM: the teacher's vectors mapped to the student's width, and whether the mapping preserves angles."""

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
    """Return the cosines of all N (N - 1) / 2 pairs of N vectors N,D."""
    rows = normalize(vectors.detach())
    above = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
    return (rows @ rows.T)[above[0], above[1]]


def plot_angles(states: dict[str, MappedTeacher]) -> Figure:
    """Plot one row per state (`before`, `after`): pairwise cosines after the mapping, and the student's cosines.

    Left: cosines of pairs after the head against the original cosines. Points on the line are pairs whose angle the
    head preserves, which is the aim of SNE. Right: cosines of student and mapped teacher. At 1 the directions are
    equal, which is the aim of the cosine loss.
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
