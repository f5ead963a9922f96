"""Images of which student and teacher say different things, with what both say."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.errors import ConfigError, check_positive
from kd_lightning.evaluation import NetworkView, Predictions
from kd_lightning.reports.style import COLORS, INK, TEACHER_COLOR, label, tidy


class Opinions(NamedTuple):
    """N images, and what two networks say of them."""

    images: Tensor
    """N,3,H,W uint8."""
    labels: Tensor
    """N, -1 where there is none."""
    student: Tensor
    """N,K probabilities."""
    teacher: Tensor
    """N,K."""

    def differ(self) -> Tensor:
        """N, whether the two say different classes."""
        return self.student.argmax(dim=1) != self.teacher.argmax(dim=1)


def disagreements(eyes: NetworkView, most: int = 8) -> Opinions:
    """The evaluated images on which student and teacher are farthest apart.

    Those with different classes come first, each by KL(teacher || student) from the largest down. Where a classifier is
    not trained on the data's classes, its probabilities are the shares of the nearest training images' votes.

    Raises:
        ConfigError: for a run without a teacher, or data without labels where a classifier is not trained.
    """
    check_positive(most=most)
    if eyes.teacher is None:
        raise ConfigError("teacher: this run has none to disagree with")
    if not (eyes.data.labeled or (eyes.knows_classes and eyes.teacher.knows_classes)):
        raise ConfigError(f"data: {eyes.data.name} has no labels, and a classifier is not trained: it has no opinion")
    seen = eyes.seen()
    student, teacher = (_probabilities(view, view.seen()).cpu() for view in (eyes, eyes.teacher))
    # the student's 0 votes would make the divergence infinite, and the order of those images arbitrary
    apart = F.kl_div(student.clamp(min=1e-6).log(), teacher, reduction="none").sum(dim=1)
    differ = student.argmax(dim=1) != teacher.argmax(dim=1)
    rows = (apart + differ * (apart.max() - apart.min() + 1)).argsort(descending=True, stable=True)[:most]
    images = _images(eyes.data, eyes.split, seen.indices.cpu()[rows])
    return Opinions(images, seen.labels.cpu()[rows], student[rows], teacher[rows])


def disagreement_grid(found: Opinions, names: Sequence[str], *, most_classes: int = 4) -> Figure:
    """Each image with the classes that the two find likeliest: the teacher's bars hatched, the student's plain."""
    count = len(found.images)
    columns = max(1, min(4, count))
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(2.1 * columns, 2.4 * rows), layout="constrained", facecolor="white")
    panels = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=(1.1, 1) * rows)
    for axes in panels.flat:
        axes.set_axis_off()
    for number in range(count):
        row, column = divmod(number, columns)
        image, bars = panels[2 * row, column], panels[2 * row + 1, column]
        image.imshow(found.images[number].permute(1, 2, 0).numpy(), interpolation="nearest")
        truth = int(found.labels[number])
        image.set_title(f"label {name_of(truth, names)}" if truth >= 0 else "no label", fontsize=9)
        bars.set_axis_on()
        draw_shares(bars, found.student[number], found.teacher[number], names, most=most_classes)
    handles, titles = panels[1, 0].get_legend_handles_labels()
    differ = int(found.differ().sum())
    said = f"{differ} of these {count} images get another class from the student than from the teacher"
    figure.suptitle(said, fontsize=10)
    figure.legend(handles, titles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def draw_shares(axes: Axes, student: Tensor, teacher: Tensor, names: Sequence[str], *, most: int) -> None:
    """Two distributions K as pairs of bars, the classes that one of them finds likeliest."""
    chosen = torch.maximum(student, teacher).topk(min(most, len(student))).indices.sort().values.tolist()
    places = torch.arange(len(chosen)).numpy()
    axes.barh(
        places - 0.2,
        teacher[chosen].numpy(),
        0.38,
        color="#cccccc",
        hatch="////",
        ec=TEACHER_COLOR,
        lw=0.5,
        label="teacher",
    )
    axes.barh(places + 0.2, student[chosen].numpy(), 0.38, color=COLORS[0], label="student")
    tidy(axes, "x")
    axes.set_yticks(places, [name_of(number, names) for number in chosen], fontsize=9, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=8)


def name_of(number: int, names: Sequence[str]) -> str:
    """A class in a picture."""
    return label(names[number], 14) if number < len(names) else f"class {number}"


def _probabilities(eyes: NetworkView, seen: Predictions) -> Tensor:
    scores = eyes.scores(seen)
    return scores.softmax(dim=1) if eyes.knows_classes else scores / scores.sum(dim=1, keepdim=True)


def _images(data: ImageData, split: str, indices: Tensor) -> Tensor:
    places = {index: row for row, index in enumerate(data.datasets[split].indices.tolist())}
    return data.datasets[split].take(torch.tensor([places[index] for index in indices.tolist()])).images.cpu()
