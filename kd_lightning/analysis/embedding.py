"""Embeddings of teacher and student in two dimensions, side by side."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure
from scipy.linalg import orthogonal_procrustes
from sklearn.manifold import TSNE
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.functional import normalize
from kd_lightning.metrics.cka import check_pair
from kd_lightning.reports.style import INK, label, size_of, styles

MOST_NAMES = 30
"""Classes up to which their names stand in the picture."""


def in_two_dimensions(embedding: Tensor, *, by: Literal["tsne", "umap"] = "tsne", seed: int = 0) -> np.ndarray:
    """Points N,2 for N,D, near each other where the cosine is large, whatever the lengths; no direction means anything.

    t-SNE is scikit-learn's, with a perplexity of 30 (a third of the images where they are few), from the first two
    principal components. UMAP needs the package umap-learn.

    Raises:
        ConfigError: for fewer than 4 images, values that are not finite, or UMAP without its package.
    """
    if len(embedding) < 4 or not embedding.isfinite().all():
        raise ConfigError(f"embedding: {tuple(embedding.shape)}; it must be of 4 images or more, and finite")
    rows = normalize(embedding.detach().cpu().double()).numpy()
    if by == "umap":
        if find_spec("umap") is None:
            raise ConfigError("by: umap needs the package umap-learn; install it, or choose tsne")
        from umap import UMAP

        return UMAP(metric="cosine", random_state=seed).fit_transform(rows)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    return TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=seed).fit_transform(rows)


def align_2d(points: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Points N,2, centred, and turned or mirrored to where those of N,2 others lie (orthogonal Procrustes)."""
    points, like = points - points.mean(axis=0), like - like.mean(axis=0)
    return points @ orthogonal_procrustes(points, like)[0]


def embedding_maps(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    names: Sequence[str],
    *,
    by: Literal["tsne", "umap"] = "tsne",
    seed: int = 0,
    most: int = 2000,
) -> Figure:
    """Two maps of the same images, the student's turned to be as like the teacher's as it can; no label is grey.

    Args:
        student: embeddings N,D.
        teacher: embeddings N,E.
        labels: N; a colour and marker for each class.
        names: the classes'.
        by: how the maps are made.
        seed: of both.
        most: images that are drawn, evenly taken from all; t-SNE of many takes minutes.
    """
    check_pair(student, teacher)
    step = -(-len(labels) // most)
    student, teacher, labels = student[::step], teacher[::step], labels[::step]
    theirs = in_two_dimensions(teacher, by=by, seed=seed)
    ours = align_2d(in_two_dimensions(student, by=by, seed=seed), theirs)
    figure = Figure(figsize=(7.6, 4.0), layout="constrained", facecolor="white")
    looks, classes = styles(names), labels.cpu().numpy()
    for axes, title, points in zip(figure.subplots(1, 2), ("teacher", "student"), (theirs, ours), strict=True):
        axes.plot(*points[classes < 0].T, ".", color="#999999", markersize=3)
        for number, name in enumerate(names):
            some, look = points[classes == number], looks[name]
            if not len(some):
                continue
            size = size_of(look.marker, 4)
            axes.plot(*some.T, look.marker, color=look.color, markersize=size, mec="white", mew=0.3)
            if len(names) <= MOST_NAMES:
                above = np.median(some[:, 0]), np.quantile(some[:, 1], 0.8)  # not above a stray image
                text = axes.annotate(label(name, 16), above, (0, 3), textcoords="offset points", ha="center")
                halo = patheffects.withStroke(linewidth=3, foreground="white")
                text.set(color=INK, weight="bold", fontsize=11, path_effects=[halo])
        axes.set(xticks=[], yticks=[])
        axes.margins(0.07)
        axes.set_title(f"{title}: {'t-SNE' if by == 'tsne' else 'UMAP'} of its embedding", fontsize=10)
    return figure
