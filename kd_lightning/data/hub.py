"""HFDataset: an image data set of the Hugging Face hub, or in local parquet files (extra `hub`)."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.decode import Source, UnreadableError
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.errors import ConfigError, nearest, one_line
from kd_lightning.io.paths import expand, resolve


class Table(Sequence[Source]):
    """The encoded images of a column, by row.

    Args:
        table: a `datasets.Dataset` whose image column is not decoded.
        column: the image column.
        rows: N int64, those in use.
    """

    def __init__(self, table: Any, column: str, rows: Tensor) -> None:
        self.table, self.column, self.rows = table, column, rows

    @property
    def names(self) -> "RowNames":
        """What an image is called in a message."""
        return RowNames(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Source:
        cell = self.table[int(self.rows[row])][self.column]
        if not cell or (cell["bytes"] is None and not cell["path"]):
            raise UnreadableError("the cell is empty")
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"])

    def subset(self, rows: Tensor) -> Self:
        return type(self)(self.table, self.column, self.rows[rows])

    def fingerprint(self) -> str:
        """Changes with the table (as `datasets` says) and with the rows in use."""
        return sha256(self.table._fingerprint.encode() + self.rows.numpy().tobytes()).hexdigest()


class RowNames(Sequence[str]):
    """`row 7`, made when asked for.

    Args:
        rows: N int64.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> str:
        return f"row {int(self.rows[place])}"


class HFDataset(ImageData):
    """An image data set by its name on the Hugging Face hub, or in local parquet files; needs the extra `hub`.

    Classes are in the order of the data set's own ClassLabel, or the sorted values of the label column;
    `Batch.indices` counts a split's rows.

    Args:
        path: name on the hub (`uoft-cs/cifar10`), or a local folder of parquet files named by their split
            (`train-00000-of-00001.parquet`, `test.parquet`).
        config: the data set's configuration on the hub, where it has several.
        image_column: default: the only column of images.
        label_column: default: `label`, `fine_label` or `labels`.
        train: name of the training split.
        val: name of a validation split to choose epochs by; default: held out of training.
        test: name of the test split; default: `test`, or `validation` where there is none.
        size: side in pixels that all images are brought to; default: the images' own.
        crop_ratio: share of the resized side that is kept where images are not cropped at random.
        labeled: false leaves the labels out.
        num_classes: width of the student's classifier without labels.
        **kwargs: as for every data set.

    Raises:
        ConfigError: without the library `datasets`, for a data set that cannot be had, an unknown split or column.
    """

    def __init__(
        self,
        *,
        path: str,
        config: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        train: str = "train",
        val: str | None = None,
        test: str | None = None,
        size: int | None = None,
        crop_ratio: float = 1.0,
        labeled: bool = True,
        num_classes: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.labeled, self.size, self.crop_ratio = labeled, size, crop_ratio
        self.tables = _open(path, config)
        default_test = next((name for name in ("test", "validation", "valid", "val") if name in self.tables), "test")
        self.splits = {"train": train, "val": val, "test": test or default_test}
        for split, name in self.splits.items():
            if name is not None and name not in self.tables and (labeled or split == "train"):
                raise ConfigError(f"data.{split}: {path} has no split {name!r}{nearest(name, self.tables)}")
        used = [name for name in self.splits.values() if name is not None]
        if labeled and len({*used}) < len(used):
            raise ConfigError(f"data.train, data.val, data.test: two of {', '.join(used)} are the same images")
        self.name = Path(path).name
        features = self.tables[train].features
        images = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
        self.image_column = _column("image_column", image_column, images, images)
        if not labeled:
            self.class_names, self.num_classes = [], num_classes or 0
            return
        usual = [name for name in ("label", "fine_label", "labels") if name in features]
        others = [name for name in features if name not in images]
        self.label_column = _column("label_column", label_column, usual[:1], others)
        kind = features[self.label_column]
        known = {*self._unique(train)} - {None}
        self.values = range(kind.num_classes) if hasattr(kind, "names") else sorted(known)
        self.class_names = list(kind.names) if hasattr(kind, "names") else [str(value) for value in self.values]
        self.num_classes = len(self.class_names)
        if self.num_classes < 2:
            raise ConfigError(f"data.label_column: {self.label_column} has {self.num_classes} class; two at least")
        for split in filter(None, self.splits.values()):
            for value in {*self._unique(split)} - {*self.values}:
                missing = value in (None, -1)
                problem = "has rows without a label" if missing else f"has the class {value}, which training has not"
                raise ConfigError(f"data.label_column: the split {split!r} {problem}")

    def _unique(self, split: str) -> list[Any]:
        return self.tables[split].unique(self.label_column)

    @property
    def has_validation(self) -> bool:
        return self.splits["val"] is not None or super().has_validation

    def load(self, split: Split) -> EncodedImages | None:
        name = self.splits[split if self.labeled or split == "val" else "train"]
        if name is None:
            return None
        table = self.tables[name]
        labels = torch.full((len(table),), -1)
        if self.labeled:
            place = {value: label for label, value in enumerate(self.values)}
            labels = torch.tensor([place[value] for value in table[self.label_column]])
        sources = Table(table.select_columns([self.image_column]), self.image_column, torch.arange(len(table)))
        return EncodedImages(sources, labels, self.size, crop_ratio=self.crop_ratio, skips=self.skips)


def _open(path: str, config: str | None) -> dict[str, Any]:
    """The splits' tables by name, with images left encoded."""
    try:
        from datasets import Image, load_dataset
    except ImportError as error:
        raise ConfigError("data: HFDataset needs the library datasets: pip install 'kd_lightning[hub]'") from error
    local = expand(path)
    if path.startswith((".", "/", "~", "$")):
        resolve(path, "data.path")  # no name on the hub: one line, and what is near it
    try:
        tables = load_dataset(str(local) if local.exists() else path, config)
    except Exception as error:  # the library raises its own, pyarrow's, requests' and built-in ones
        reason = one_line(error)
        problem = "holds no data set" if local.exists() else "is no local folder and cannot be had from the hub"
        raise ConfigError(f"data.path: {path} {problem} ({reason})") from error
    found = {}
    for name, table in tables.items():
        for column, kind in table.features.items():
            if type(kind).__name__ == "Image":
                table = table.cast_column(column, Image(decode=False))
        found[name] = table
    return found


def _column(field: str, given: str | None, usual: list[str], choices: list[str]) -> str:
    if given is None and len(usual) == 1:
        return usual[0]
    if given not in choices:
        said = f"{given!r} is no such column" if given else "say which column it is"
        raise ConfigError(f"data.{field}: {said}; choices: {', '.join(choices) or 'none'}")
    return given
