"""Images on which student and teacher disagree, with the predictions of both."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.evaluation import NetworkView
from kd_lightning.reports.style import COLORS, INK, TEACHER_COLOR, label, tidy


class ProbabilityPair(NamedTuple):
    """N images with the class probabilities of student and teacher."""

    images: Tensor
    """N,3,H,W uint8."""
    labels: Tensor
    """N, -1 for images without a label."""
    student: Tensor
    """N,K probabilities."""
    teacher: Tensor
    """N,K."""

    def differ(self) -> Tensor:
        """Return for each of the N images whether student and teacher predict different classes."""
        return self.student.argmax(dim=1) != self.teacher.argmax(dim=1)


def disagreements(view: NetworkView, max_images: int = 8) -> ProbabilityPair:
    """Return the evaluated images on which the predictions of student and teacher differ most.

    Images for which the two networks predict different classes come first. Within these images, and within the others,
    the order is by decreasing KL(teacher || student). If a classifier is not trained on the data's classes, the
    probabilities are the votes of the nearest training images.

    Raises:
        ConfigError: if the run has no teacher, or if a classifier is not trained and the data have no labels.
    """
    check_positive(max_images=max_images)
    if view.teacher is None:
        raise ConfigError("teacher: this run has no teacher to compare with; choose a run with a teacher")
    if not (view.data.labeled or (view.knows_classes and view.teacher.knows_classes)):
        raise ConfigError(
            f"data: {view.data.name} has no labels, and the classifier of the student or of the teacher is not "
            "trained, so there are no classes to compare; choose data with labels"
        )
    predictions = view.predictions()
    student, teacher = (_probabilities(side).cpu() for side in (view, view.teacher))
    # for a class without votes of the student, the divergence would be infinite and could not order the images
    apart = F.kl_div(student.clamp(min=1e-6).log(), teacher, reduction="none").sum(dim=1)
    differ = student.argmax(dim=1) != teacher.argmax(dim=1)
    rows = (apart + differ * (apart.max() - apart.min() + 1)).argsort(descending=True, stable=True)[:max_images]
    images = _images(view.data, view.split, predictions.indices.cpu()[rows])
    return ProbabilityPair(images, predictions.labels.cpu()[rows], student[rows], teacher[rows])


def disagreement_grid(pairs: ProbabilityPair, names: Sequence[str], *, max_classes: int = 4) -> Figure:
    """Plot each image with its most probable classes; the bars of the teacher are hatched."""
    count = len(pairs.images)
    columns = max(1, min(4, count))
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(2.1 * columns, 2.4 * rows), layout="constrained", facecolor="white")
    panels = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=(1.1, 1) * rows)
    for axes in panels.flat:
        axes.set_axis_off()
    for number in range(count):
        row, column = divmod(number, columns)
        image, bars = panels[2 * row, column], panels[2 * row + 1, column]
        image.imshow(pairs.images[number].permute(1, 2, 0).numpy(), interpolation="nearest")
        truth = int(pairs.labels[number])
        image.set_title(f"label {class_label(truth, names)}" if truth >= 0 else "no label", fontsize=9)
        bars.set_axis_on()
        draw_shares(bars, pairs.student[number], pairs.teacher[number], names, max_classes=max_classes)
    handles, titles = panels[1, 0].get_legend_handles_labels()
    differ = int(pairs.differ().sum())
    figure.suptitle(f"student and teacher predict different classes for {differ} of these {count} images", fontsize=10)
    figure.legend(handles, titles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def draw_shares(axes: Axes, student: Tensor, teacher: Tensor, names: Sequence[str], *, max_classes: int) -> None:
    """Draw two distributions over K classes as pairs of bars, for the classes that are most probable in one of them."""
    classes = torch.maximum(student, teacher).topk(min(max_classes, len(student))).indices.sort().values.tolist()
    places = torch.arange(len(classes)).numpy()
    axes.barh(
        places - 0.2,
        teacher[classes].numpy(),
        0.38,
        color="#cccccc",
        hatch="////",
        ec=TEACHER_COLOR,
        lw=0.5,
        label="teacher",
    )
    axes.barh(places + 0.2, student[classes].numpy(), 0.38, color=COLORS[0], label="student")
    tidy(axes, "x")
    axes.set_yticks(places, [class_label(number, names) for number in classes], fontsize=9, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8)


def class_label(number: int, names: Sequence[str]) -> str:
    """Return the label of a class in a figure."""
    return label(names[number], 14) if number < len(names) else f"class {number}"


def _probabilities(view: NetworkView) -> Tensor:
    scores = view.scores(view.predictions())
    return scores.softmax(dim=1) if view.knows_classes else scores / scores.sum(dim=1, keepdim=True)


def _images(data: ImageData, split: str, indices: Tensor) -> Tensor:
    places = {index: row for row, index in enumerate(data.datasets[split].indices.tolist())}
    return data.datasets[split].take(torch.tensor([places[index] for index in indices.tolist()])).images.cpu()
