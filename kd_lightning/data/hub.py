"""HFDataset: an image data set from the Hugging Face hub or from local parquet files. It needs the extra `hub`."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.formats import Source, UnreadableError
from kd_lightning.errors import ConfigError, check_positive, nearest, one_line
from kd_lightning.io.paths import expand, resolve


class Table(Sequence[Source]):
    """The encoded images of a column, by row.

    Args:
        table: Table of the type `datasets.Dataset` whose image column is not decoded.
        column: Name of the image column.
        rows: Rows that are used, N int64.
    """

    def __init__(self, table: Any, column: str, rows: Tensor) -> None:
        self.table, self.column, self.rows = table, column, rows

    @property
    def names(self) -> "RowNames":
        """Names of the images in messages."""
        return RowNames(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Source:
        try:
            cell = self.table[int(self.rows[row])][self.column]
        except Exception as error:  # from the library or pyarrow
            raise UnreadableError(one_line(error)) from error
        if not cell or (cell["bytes"] is None and not cell["path"]):
            raise UnreadableError("the cell is empty")
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"])

    def subset(self, rows: Tensor) -> Self:
        return type(self)(self.table, self.column, self.rows[rows])

    def unusable(self) -> Iterator[int]:
        """Yield no row: the cells are read only when they are decoded."""
        return iter(())

    def fingerprint(self) -> str:
        """Return a hash of the table (from `datasets`) and of the rows that are used."""
        return sha256(self.table._fingerprint.encode() + self.rows.numpy().tobytes()).hexdigest()


class RowNames(Sequence[str]):
    """Names such as `row 7`, which are created on access.

    Args:
        rows: Numbers of the rows, N int64.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> str:
        return f"row {int(self.rows[position])}"


class HFDataset(ImageData):
    """An image data set from the Hugging Face hub, by its name, or from local parquet files. It needs the extra `hub`.

    Classes have the order of the data set's ClassLabel. Without a ClassLabel, they are the sorted values of the label
    column. `Batch.indices` are the rows of a split.

    Args:
        path: Name on the hub (`uoft-cs/cifar10`), or path of a local folder with parquet files. The names of these
            files begin with the name of the split (`train-00000-of-00001.parquet`, `test.parquet`).
        config: Name of the data set's configuration on the hub, if it has several configurations.
        image_column: Name of the image column. Default: the only column of images.
        label_column: Name of the label column. Default: `label`, `fine_label` or `labels`.
        train: Name of the training split.
        val: Name of the validation split, with which the epoch is selected. Default: some images of the training split
            are held out.
        test: Name of the test split. Default: `test`, or `validation` if there is no `test`.
        test_split: Share of the training split (or, from 1, the number of its images) that is the test split if the
            data set has no other split. It is stratified by class, and drawn with `split_seed`. With 0, which is valid
            only if `labeled` is false, every image is used.
        size: Side in pixels to which all images are resized. Default: images are not resized.
        crop_ratio: Share of the resized side that the crop of the centre keeps. Random crops do not use this argument.
        labeled: Whether labels are used. If false, the column of labels only decides which images are held out as
            `test_split`, as with labels. Without such a column, every image is used.
        num_classes: Number of outputs of the student's classifier if there are no labels.
        **kwargs: Arguments of every data set.

    Raises:
        ConfigError: if the library `datasets` is missing, if the data set is unavailable, or if a split or column is
            unknown.
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
        test_split: float = 0.2,
        size: int | None = None,
        crop_ratio: float = 1.0,
        labeled: bool = True,
        num_classes: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.labeled, self.size, self.crop_ratio = labeled, size, crop_ratio
        if labeled or test_split:
            check_positive(**{"data.test_split": test_split})
        self.tables, self.test_split = _open(path, config), test_split
        default_test = next((name for name in ("test", "validation", "valid", "val") if name in self.tables), "test")
        only_train = test is None and {*self.tables} == {train}
        self.splits = {"train": train, "val": val, "test": None if only_train else test or default_test}
        for split, name in self.splits.items():
            if name is not None and name not in self.tables and (labeled or split == "train"):
                raise ConfigError(f"data.{split}: {path} has no split {name!r}{nearest(name, self.tables)}")
        used = [name for name in self.splits.values() if name is not None]
        if labeled and len({*used}) < len(used):
            raise ConfigError(f"data.train, data.val, data.test: two of {', '.join(used)} are the same split")
        self.name = Path(path).name
        features = self.tables[train].features
        images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
        self.image_column = _column("image_column", image_column, images, images)
        default_columns = [name for name in ("label", "fine_label", "labels") if name in features]
        other_columns = [name for name in features if name not in images]
        self.label_column = None
        if labeled or (label_column and test_split):
            self.label_column = _column("label_column", label_column, default_columns[:1], other_columns)
        elif test_split:
            scalars = (name for name in default_columns if type(features[name]).__name__ in ("ClassLabel", "Value"))
            self.label_column = next(scalars, None)
        if self.label_column:
            feature = features[self.label_column]
            values = {*self._unique(train)} - {None}
            self.values = range(feature.num_classes) if hasattr(feature, "names") else sorted(values)
        if not labeled:
            self.class_names, self.num_classes = [], num_classes or 0
            self.test_split_advice = {**self.test_split_advice, "hint": "0 uses every image and holds out none"}
            return
        self.class_names = list(feature.names) if hasattr(feature, "names") else [str(value) for value in self.values]
        self.num_classes = len(self.class_names)
        if self.num_classes < 2:
            raise ConfigError(
                f"data.label_column: {self.label_column} has {self.num_classes} class; at least two are needed"
            )
        for split in filter(None, self.splits.values()):
            for value in {*self._unique(split)} - {*self.values}:
                missing = value in (None, -1)
                problem = (
                    "has rows without a label" if missing else f"has the class {value}, which the training split lacks"
                )
                raise ConfigError(f"data.label_column: the split {split!r} {problem}; choose another column or split")

    def _unique(self, split: str) -> list[Any]:
        return self.tables[split].unique(self.label_column)

    @property
    def has_validation(self) -> bool:
        return self.splits["val"] is not None or super().has_validation

    def load(self, split: Split) -> EncodedImages | None:
        name = self.splits[split]
        if split == "val" and (name is None or name not in self.tables):
            return None
        undivided = self.splits["test"] is None and split != "val" and self.label_column
        table = self.tables[name if name in self.tables else self.splits["train"]]
        labels = torch.full((len(table),), -1)
        if self.label_column:
            label_of = {value: label for label, value in enumerate(self.values)}
            labels = torch.tensor([label_of.get(value, -1) for value in table[self.label_column]])
        sources = Table(table.select_columns([self.image_column]), self.image_column, torch.arange(len(table)))
        images = EncodedImages(
            sources, labels, self.size, crop_ratio=self.crop_ratio, skip_unreadable=self.skip_unreadable
        )
        part = self.part(images, split) if undivided else images
        if split == "train" and not self.labeled and len(part) < len(images):
            count, share = len(images) - len(part), f"data.test_split {self.test_split:g}"
            self.held_out = f"{count:,} test images (by {share}, as in a run with labels; 0 uses every image)"
        return part


def _open(path: str, config: str | None) -> dict[str, Any]:
    """Return the splits' tables by name, with encoded images."""
    try:
        from datasets import Image, load_dataset
    except ImportError as error:
        raise ConfigError("data: HFDataset needs the library datasets: pip install 'kd_lightning[hub]'") from error
    local = expand(path)
    if path.startswith((".", "/", "~", "$")):
        resolve(path, "data.path")  # not a name on the hub: raise an error with the nearest names
    try:
        tables = load_dataset(str(local) if local.exists() else path, config)
    except Exception as error:  # from the library, pyarrow, requests or Python
        reason = one_line(error)
        problem = (
            "contains no data set" if local.exists() else "is not a local folder and cannot be loaded from the hub"
        )
        raise ConfigError(f"data.path: {path} {problem} ({reason})") from error
    encoded_tables = {}
    for name, table in tables.items():
        for column, feature in table.features.items():
            if type(feature).__name__ == "Image":
                table = table.cast_column(column, Image(decode=False))
        encoded_tables[name] = table
    return encoded_tables


def _column(field: str, name: str | None, default_columns: list[str], choices: list[str]) -> str:
    if name is None and len(default_columns) == 1:
        return default_columns[0]
    if name not in choices:
        problem = f"there is no column {name!r}" if name else "give the name of the column"
        raise ConfigError(f"data.{field}: {problem}; choices: {', '.join(choices) or 'none'}")
    return name
