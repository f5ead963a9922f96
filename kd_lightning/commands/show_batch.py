"""show-batch: write a picture of the training images as the networks receive them."""

from pathlib import Path

import matplotlib
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.data import ImageData
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import check_writable


class Show:
    """Writes a PNG of training images as the networks receive them: augmented, with labels, views and neighbours.

    Each row shows one image of the first batch. The first picture of a row is the image without augmentation, followed
    by its augmented views. If `data.neighbors` is set, each row shows an anchor and its neighbours instead.

    Args:
        path: path of the PNG; an existing file is overwritten.
        rows: number of rows.
        epoch: number of the epoch whose augmentations are shown, counted from 0.
    """

    def __init__(self, path: str = "show.png", rows: int = 12, epoch: int = 0) -> None:
        self.path = Path(path).expanduser()
        if self.path.suffix != ".png":
            raise ConfigError(f"path: {self.path} does not end in .png")
        check_writable(self.path, "path")
        if rows < 1 or epoch < 0:
            raise ConfigError(f"rows: {rows}, epoch: {epoch}; rows must be at least 1, and epoch at least 0")
        self.rows, self.epoch = rows, epoch

    def __call__(self, method: StudentModule, data: ImageData, trainer: Trainer) -> Path:
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(self.epoch)
        augmented = data.augmented(next(iter(loader)))
        plain = data.datasets["train"].take(_rows(data, augmented.indices))
        starts = range(0, len(augmented.labels), data.group)[: self.rows]
        rows = [_row(augmented, plain, slice(start, start + data.group), data) for start in starts]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _draw(rows, self.path, f"{data.name}, epoch {self.epoch}, seed {data.seed}")
        rank_zero_info(f"{len(rows)} rows of images are written to {self.path}")
        return self.path


def _rows(data: ImageData, indices: Tensor) -> Tensor:
    place = {int(index): row for row, index in enumerate(data.datasets["train"].indices)}
    return torch.tensor([place[int(index)] for index in indices])


def _row(batch: Batch, plain: Batch, part: slice, data: ImageData) -> list[tuple[str, Tensor]]:
    """Return titles and images of a row: an anchor with its neighbours, or an image with its augmented views."""
    if part.stop - part.start > 1:
        columns = range(part.start, part.stop)
        return [(("anchor " if n == part.start else "") + _title(batch, n, data), batch.images[n]) for n in columns]
    number = part.start
    views = [batch.images, *batch.views]
    rest = [(f"view {place + 2}", view[number]) for place, view in enumerate(views[1:])]
    return [
        (f"#{int(batch.indices[number])}", plain.images[number]),
        (_title(batch, number, data), views[0][number]),
        *rest,
    ]


def _title(batch: Batch, number: int, data: ImageData) -> str:
    def name(label: Tensor) -> str:
        names, index = data.class_names, int(label)
        return names[index] if 0 <= index < len(names) else f"#{int(batch.indices[number])}"

    title = name(batch.labels[number])
    if batch.mix_lambda is not None and batch.mix_lambda[number] < 1:
        title += f" {batch.mix_lambda[number]:.0%}, {name(batch.partner_labels[number])}"
    return title


def _draw(rows: list[list[tuple[str, Tensor]]], path: Path, title: str) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns, side = max(map(len, rows)), 1.5
    rows_per_line = max(1, 8 // columns)  # with few columns, several rows are drawn next to each other
    height = -(-len(rows) // rows_per_line)
    figure, axes = pyplot.subplots(
        height,
        columns * rows_per_line,
        figsize=(side * columns * rows_per_line, 1.2 * side * height),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.axis("off")
    for number, row in enumerate(rows):
        for column, (caption, image) in enumerate(row):
            axis = axes[number // rows_per_line][number % rows_per_line * columns + column]
            axis.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
            axis.set_title(caption, fontsize=6)
    figure.suptitle(title, fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
