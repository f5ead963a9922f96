"""What CoSS sees: a batch of embeddings as a table, whose rows and whose columns are compared."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kd_lightning.analysis.images import runs_of_classes
from kd_lightning.errors import ConfigError
from kd_lightning.functional import cosine, full_precision
from kd_lightning.reports.style import COLORS, tidy


@full_precision
def row_and_column_cosines(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Of N,D and N,D the cosines of the N images (CoSS's L_co is minus their mean), and of the D dimensions (L_ss).

    Raises:
        ConfigError: for different shapes; CoSS's head brings the student's embedding to the teacher's width.
    """
    if student.shape != teacher.shape or student.ndim != 2:
        shapes = f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        raise ConfigError(f"embeddings: {shapes}; they must be N,D both, the student's behind the head")
    return cosine(student, teacher, dim=1), cosine(student, teacher, dim=0)


def plot_embedding_table(student: Tensor, teacher: Tensor, labels: Tensor, *, title: str = "") -> Figure:
    """The teacher's embedding and the student's behind the head, with the cosine of each row and of each column.

    Args:
        student: N,D, as it stands after the head.
        teacher: N,D.
        labels: N; rows are sorted by them, columns by the teacher's mean.
        title: of the whole.
    """
    of_rows, of_columns = row_and_column_cosines(student.detach(), teacher.detach())
    order, across = labels.argsort(stable=True), teacher.mean(dim=0).argsort(descending=True)
    figure = Figure(figsize=(7.8, 4.1), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(2, 3, width_ratios=(3, 3, 1.1), height_ratios=(3, 1.1))
    edges = runs_of_classes(labels[order])[0]
    # length 1 for each image: cosines know no lengths
    for column, (name, table) in enumerate((("teacher", teacher), ("student behind the head", student))):
        axes = figure.add_subplot(grid[0, column])
        rows = table.detach()[order][:, across]
        _table(axes, rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12), edges)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("dimensions", fontsize=9)
        if not column:
            axes.set_ylabel("images, by class", fontsize=9)
    right = figure.add_subplot(grid[0, 2])
    right.barh(range(len(order)), of_rows[order].numpy(), height=1.0, color=COLORS[0])
    right.set_ylim(len(order) - 0.5, -0.5)
    right.set_title(f"by image\nmean {float(of_rows.mean()):.2f}", fontsize=10)
    below = figure.add_subplot(grid[1, 1])
    below.bar(range(len(across)), of_columns[across].numpy(), width=1.0, color=COLORS[1])
    below.set_xlim(-0.5, len(across) - 0.5)
    below.set_title(f"by dimension: mean {float(of_columns.mean()):.2f}", fontsize=10)
    for axes, limits in ((right, right.set_xlim), (below, below.set_ylim)):
        tidy(axes, "x" if axes is right else "y")
        low = float((of_rows if axes is right else of_columns).min())
        limits(min(0.0, low), 1.0)
    right.set_yticks([])
    below.set_xticks([])
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _table(axes: Axes, rows: Tensor, edges: list[float]) -> None:
    reach = float(rows.abs().max())
    axes.imshow(rows.numpy(), cmap="cividis", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
    for edge in edges:
        axes.axhline(edge, color="white", linewidth=0.5)
    axes.set(xticks=[], yticks=[])
