"""show-batch: write a picture of the training images as the networks receive them."""

import warnings
from pathlib import Path

import matplotlib
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.data import ImageData
from kd_lightning.data.unreadable import unreadable_files
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError, check_not_negative
from kd_lightning.io.atomic import atomic_write
from kd_lightning.io.paths import check_writable, expand
from kd_lightning.redaction import printable
from kd_lightning.words import counted

MOST_ROWS, MOST_NAMED = 100, 50


class Show:
    """Writes a PNG of training images as the networks receive them: augmented, with labels, views and neighbours.

    Each row shows one image of the epoch, in the order of training. The first picture of a row is the image without
    augmentation, followed by its augmented views. If `data.neighbors` is set, each row shows an anchor and its
    neighbours instead.

    Args:
        path: path of the PNG; an existing file is overwritten.
        rows: number of rows, at most 100.
        epoch: number of the epoch whose augmentations are shown, counted from 0.
        check: number of images up to which all images of the data set are decoded first, with the test images. A
            warning names each file that cannot be read. With 0, no image is decoded first.
    """

    def __init__(self, path: str = "show.png", rows: int = 12, epoch: int = 0, check: int = 20_000) -> None:
        self.path = expand(path)
        if self.path.suffix != ".png":
            raise ConfigError(f"path: {self.path} does not end in .png")
        check_writable(self.path, "path", kind="file")
        if rows < 1 or not 0 <= epoch < 2**31:
            raise ConfigError(f"rows: {rows}, epoch: {epoch}; rows must be at least 1, and epoch from 0 to 2**31 - 1")
        if rows > MOST_ROWS:
            raise ConfigError(f"rows: {rows} is more than {MOST_ROWS}, the largest number that a picture can show")
        check_not_negative(check=check)
        self.rows, self.epoch, self.check = rows, epoch, check

    def __call__(self, method: StudentModule, data: ImageData, trainer: Trainer) -> Path:
        with warnings.catch_warnings():
            if self._examine(data):
                data.skip_unreadable = True  # otherwise the first unreadable file would end the command
                warnings.filterwarnings("ignore", message="data.on_error: ")  # these files are already named
            rows = self._read(data)
        _draw(rows, self.path, f"{data.name}, epoch {self.epoch}, seed {data.seed}")
        rank_zero_info(f"{counted(len(rows), 'row')} of images are written to {self.path}")
        return self.path

    def _read(self, data: ImageData) -> list[list[tuple[str, Tensor]]]:
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(self.epoch)
        rows: list[list[tuple[str, Tensor]]] = []
        for batch in loader:
            augmented = data.augmented(batch)
            plain = data.datasets["train"].take(_rows(data, augmented.indices))
            starts = range(0, len(augmented.labels), data.group)[: self.rows - len(rows)]
            rows += [_row(augmented, plain, slice(start, start + data.group), data) for start in starts]
            if len(rows) == self.rows:
                break
        return rows

    def _examine(self, data: ImageData) -> bool:
        """Decode all images, warn about files that cannot be read, and return whether there are any."""
        if not self.check:
            return False
        files, count, decoded = unreadable_files(data.loaded, self.check)
        if not decoded:
            rank_zero_info(
                f"check: the {count:,} images of the data set are not decoded, because they are more than "
                f"{self.check:,}; set check to find files that cannot be read"
            )
            return False
        for name, reason in [*files.items()][:MOST_NAMED]:
            rank_zero_warn(f"data.path: {name} cannot be read as an image ({reason})")
        if files:
            more = f" ({MOST_NAMED} are named)" if len(files) > MOST_NAMED else ""
            rank_zero_warn(
                f"data.path: {len(files):,} of {counted(count, 'image')} cannot be read{more}; repair or remove them, "
                "or set data.on_error to skip in fit"
            )
        elif count:
            rank_zero_info(f"all {counted(count, 'image')} of the data set can be read")
        return bool(files)


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
            axis.set_title(printable(caption), fontsize=6, parse_math=False)
    figure.suptitle(printable(title), fontsize=8, parse_math=False)
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=130, format="png")
    pyplot.close(figure)
