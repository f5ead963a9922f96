"""show: a picture of what the networks really see."""

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
    """Writes a PNG of training images as the networks see them: augmented, with labels, views and neighbours.

    A row is one image of the first batches: as it is in the data, then its views. With neighbours, a row is an anchor
    and its neighbours.

    Args:
        path: of the PNG; one that is there is written over.
        rows: how many.
        epoch: whose augmentation.
    """

    def __init__(self, path: str = "show.png", rows: int = 12, epoch: int = 0) -> None:
        self.path = Path(path).expanduser()
        if self.path.suffix != ".png":
            raise ConfigError(f"path: {self.path} must end in .png")
        check_writable(self.path, "path")
        if rows < 1 or epoch < 0:
            raise ConfigError(f"rows: {rows} and epoch: {epoch} are to be 1 or more, and 0 or more")
        self.rows, self.epoch = rows, epoch

    def __call__(self, method: StudentModule, data: ImageData, trainer: Trainer) -> Path:
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(self.epoch)
        seen = data.augmented(next(iter(loader)))
        plain = data.datasets["train"].take(_rows(data, seen.indices))
        starts = range(0, len(seen.labels), data.group)[: self.rows]
        rows = [_row(seen, plain, slice(start, start + data.group), data) for start in starts]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _draw(rows, self.path, f"{data.name}, epoch {self.epoch}, seed {data.seed}")
        rank_zero_info(f"{len(rows)} rows of images: {self.path}")
        return self.path


def _rows(data: ImageData, indices: Tensor) -> Tensor:
    place = {int(index): row for row, index in enumerate(data.datasets["train"].indices)}
    return torch.tensor([place[int(index)] for index in indices])


def _row(seen: Batch, plain: Batch, part: slice, data: ImageData) -> list[tuple[str, Tensor]]:
    """Titles and images of a row: of one sample, the file and all views; of an anchor, it and its neighbours."""
    if part.stop - part.start > 1:
        columns = range(part.start, part.stop)
        return [(("anchor " if n == part.start else "") + _title(seen, n, data), seen.images[n]) for n in columns]
    number = part.start
    views = [seen.images, *seen.views]
    rest = [(f"view {place + 2}", view[number]) for place, view in enumerate(views[1:])]
    return [
        (f"#{int(seen.indices[number])}", plain.images[number]),
        (_title(seen, number, data), views[0][number]),
        *rest,
    ]


def _title(seen: Batch, number: int, data: ImageData) -> str:
    def name(label: Tensor) -> str:
        return (
            data.class_names[int(label)] if 0 <= int(label) < len(data.class_names) else f"#{int(seen.indices[number])}"
        )

    title = name(seen.labels[number])
    if seen.mix_lambda is not None and seen.mix_lambda[number] < 1:
        title += f" {seen.mix_lambda[number]:.0%}, {name(seen.partner_labels[number])}"
    return title


def _draw(rows: list[list[tuple[str, Tensor]]], path: Path, title: str) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns, side = max(map(len, rows)), 1.5
    beside = max(1, 8 // columns)  # few columns: several rows of images in one row of the picture
    height = -(-len(rows) // beside)
    figure, axes = pyplot.subplots(
        height,
        columns * beside,
        figsize=(side * columns * beside, 1.2 * side * height),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.axis("off")
    for number, row in enumerate(rows):
        for column, (caption, image) in enumerate(row):
            axis = axes[number // beside][number % beside * columns + column]
            axis.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
            axis.set_title(caption, fontsize=6)
    figure.suptitle(title, fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
