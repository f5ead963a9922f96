"""Projections of the embeddings of teacher and student to two dimensions."""

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

MAX_NAMED_CLASSES = 30
"""Largest number of classes whose names are shown in the figure."""


def project_2d(embedding: Tensor, *, by: Literal["tsne", "umap"] = "tsne", seed: int = 0) -> np.ndarray:
    """Project embeddings N,D to points N,2, by the cosine distance; the directions of the axes have no meaning.

    t-SNE is that of scikit-learn, initialised with the first two principal components. Its perplexity is 30, but at
    most a third of the number of images. UMAP needs the package umap-learn.

    Raises:
        ConfigError: for fewer than 4 images, for values that are not finite, or for UMAP without its package.
    """
    if len(embedding) < 4 or not embedding.isfinite().all():
        broken = int(embedding.isfinite().logical_not().sum())
        raise ConfigError(
            f"embedding: it has {len(embedding)} images, and {broken} of its values are not finite; give at least 4 "
            "images and only finite values"
        )
    rows = normalize(embedding.detach().cpu().double()).numpy()
    if by == "umap":
        if find_spec("umap") is None:
            raise ConfigError("by: umap needs the package umap-learn; install it, or choose tsne")
        from umap import UMAP

        return UMAP(metric="cosine", random_state=seed).fit_transform(rows)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    return TSNE(perplexity=perplexity, metric="cosine", init="pca", random_state=seed).fit_transform(rows)


def align_2d(points: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return points N,2, centred, and rotated or mirrored to match the points `like`, N,2 (orthogonal Procrustes)."""
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
    max_images: int = 2000,
) -> Figure:
    """Plot the projections of both embeddings; the student's projection is rotated to match the teacher's.

    Args:
        student: embeddings N,D.
        teacher: embeddings N,E.
        labels: labels N. Each class has a colour and a marker. Images without a label are grey.
        names: class names.
        by: projection method.
        seed: seed of both projections.
        max_images: largest number of images that are drawn. They are selected at regular intervals, because t-SNE of
            many images takes minutes.
    """
    check_pair(student, teacher)
    step = -(-len(labels) // max_images)
    student, teacher, labels = student[::step], teacher[::step], labels[::step]
    teacher_map = project_2d(teacher, by=by, seed=seed)
    student_map = align_2d(project_2d(student, by=by, seed=seed), teacher_map)
    figure = Figure(figsize=(7.6, 4.0), layout="constrained", facecolor="white")
    class_styles, classes = styles(names), labels.cpu().numpy()
    for axes, title, points in zip(
        figure.subplots(1, 2), ("teacher", "student"), (teacher_map, student_map), strict=True
    ):
        axes.plot(*points[classes < 0].T, ".", color="#999999", markersize=3)
        for number, name in enumerate(names):
            class_points, style = points[classes == number], class_styles[name]
            if not len(class_points):
                continue
            size = size_of(style.marker, 4)
            axes.plot(*class_points.T, style.marker, color=style.color, markersize=size, mec="white", mew=0.3)
            if len(names) <= MAX_NAMED_CLASSES:
                # medians and quantiles, so that outliers do not move the name
                position = np.median(class_points[:, 0]), np.quantile(class_points[:, 1], 0.8)
                text = axes.annotate(label(name, 16), position, (0, 3), textcoords="offset points", ha="center")
                halo = patheffects.withStroke(linewidth=3, foreground="white")
                text.set(color=INK, weight="bold", fontsize=11, path_effects=[halo])
        axes.set(xticks=[], yticks=[])
        axes.margins(0.07)
        axes.set_title(f"{title}: {'t-SNE' if by == 'tsne' else 'UMAP'} of its embedding", fontsize=10)
    return figure
