"""Plot for CoSS: the embeddings of a batch as tables; CoSS compares their rows and their columns."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.analysis.images import class_boundaries
from kd_lightning.errors import ConfigError
from kd_lightning.functional import cosine, full_precision
from kd_lightning.reports.style import COLORS, tidy


@full_precision
def row_and_column_cosines(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines between the N rows of two tables N,D, and the cosines between their D columns.

    The mean over the rows, multiplied by -1, is CoSS's loss L_co. The mean over the columns, multiplied by -1, is L_ss.

    Raises:
        ConfigError: if the shapes differ. CoSS's head maps the student's embedding to the teacher's width.
    """
    if student.shape != teacher.shape or student.ndim != 2:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ConfigError(
            f"embeddings: the shapes are {shapes}, but both must be N,D; give the student's embedding after the head"
        )
    return cosine(student, teacher, dim=1), cosine(student, teacher, dim=0)


def plot_embedding_table(student: Tensor, teacher: Tensor, labels: Tensor, *, title: str = "") -> Figure:
    """Plot the embeddings of student and teacher as tables, with the cosine of each row and of each column.

    Args:
        student: embeddings N,D of the student, after the head.
        teacher: embeddings N,D of the teacher.
        labels: labels N. The rows are sorted by label. The columns are sorted by their mean in the teacher's table.
        title: title of the figure.
    """
    row_cosines, column_cosines = row_and_column_cosines(student.detach(), teacher.detach())
    order, columns = labels.argsort(stable=True), teacher.mean(dim=0).argsort(descending=True)
    figure = Figure(figsize=(7.8, 4.1), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(2, 3, width_ratios=(3, 3, 1.1), height_ratios=(3, 1.1))
    edges = class_boundaries(labels[order])[0]
    # the rows are drawn with length 1, because cosines do not depend on the length
    for column, (name, table) in enumerate((("teacher", teacher), ("student after the head", student))):
        axes = figure.add_subplot(grid[0, column])
        rows = table.detach()[order][:, columns]
        _table(axes, rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12), edges)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("dimensions", fontsize=9)
        if not column:
            axes.set_ylabel("images, by class", fontsize=9)
    right = figure.add_subplot(grid[0, 2])
    right.barh(range(len(order)), row_cosines[order].numpy(), height=1.0, color=COLORS[0])
    right.set_ylim(len(order) - 0.5, -0.5)
    right.set_title(f"by image\nmean {float(row_cosines.mean()):.2f}", fontsize=10)
    below = figure.add_subplot(grid[1, 1])
    below.bar(range(len(columns)), column_cosines[columns].numpy(), width=1.0, color=COLORS[1])
    below.set_xlim(-0.5, len(columns) - 0.5)
    below.set_title(f"by dimension: mean {float(column_cosines.mean()):.2f}", fontsize=10)
    for axes, limits in ((right, right.set_xlim), (below, below.set_ylim)):
        tidy(axes, "x" if axes is right else "y")
        low = float((row_cosines if axes is right else column_cosines).min())
        limits(min(0.0, low), 1.0)
    right.set_yticks([])
    below.set_xticks([])
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _table(axes: Axes, rows: Tensor, edges: list[float]) -> None:
    limit = float(rows.abs().max())
    axes.imshow(rows.numpy(), cmap="cividis", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    for edge in edges:
        axes.axhline(edge, color="white", linewidth=0.5)
    axes.set(xticks=[], yticks=[])
