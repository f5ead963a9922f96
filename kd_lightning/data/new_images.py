"""NewImages: images of any folder, files or list, for `predict` with a student that was trained on other images."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from kd_lightning.data.archives import folder_at, is_archive
from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.files import Files, but_others, find_images, say_skipped
from kd_lightning.data.images import ImageDataset
from kd_lightning.errors import ConfigError, nearest, one_line
from kd_lightning.io.paths import read_text, resolve

LISTS = {".txt": "\t", ".tsv": "\t", ".csv": ","}
"""Endings of lists of images, and the character between two columns. In .txt files, a comma is also accepted."""
_PATHS = ("path", "file", "filename", "file_name", "image")
_LABELS = ("label", "class", "class_name")
_NO_WORKERS = 64
"""Number of images up to which no processes are started to decode them."""


class NewImages(ImageData):
    """Images that `predict` and `embed` read: all images of folders, single files, and lists of files.

    An image is labelled if the given folder, or a folder between it and the image, has the name or the id of a class,
    or if a list names its class. The nearest such folder counts. The images are decoded when they are needed, so that
    they need not fit into memory.

    Args:
        paths: Paths of folders or archives with images, of images, and of lists of images (.txt, .tsv, .csv). A list
            has one image per line: its path and, optionally, its class. A tab separates them in .txt and .tsv files, a
            comma in .csv files. In .txt files, a comma is also accepted. A first line with the names of the columns
            (`path`, `label`) is optional. Relative paths are relative to the folder of the list, or else to the working
            directory.
        size: Side of the images in pixels, as in the run. The shorter side is resized to this number of pixels, and the
            centre is cropped.
        crop_ratio: Share of the resized side that the crop of the centre keeps.
        num_classes: Number of outputs of the student's classifier.
        class_names: Names of the run's classes.
        class_ids: Names of these classes in the files of the run's data set, such as WordNet ids.
        **kwargs: Arguments of every data set.

    Raises:
        ConfigError: if a path does not exist or contains no images, or if a list is not valid.
    """

    partly_labeled = True

    def __init__(
        self,
        *,
        paths: list[str],
        size: int | None = None,
        crop_ratio: float = 1.0,
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        class_ids: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size, self.crop_ratio = size, crop_ratio
        self.num_classes, self.class_names = num_classes or 0, class_names or []
        self.name = _name(paths)
        self.class_ids = class_ids or []
        self._label_of = _labels(self.class_ids) | _labels(self.class_names)
        found = [image for path in paths for image in self._images(resolve(path, "data.path"))]
        if not found:
            raise ConfigError(f"data.path: {', '.join(paths[:3])} contains no images")
        self._files, labels = zip(*found, strict=True)
        self._labels = torch.tensor(labels)
        self.labeled = bool((self._labels >= 0).any())

    def _images(self, path: Path) -> Iterator[tuple[str, int]]:
        """Yield the path and the label of each image; the label -1 means that the class is unknown."""
        if path.is_dir() or is_archive(path):
            folder = folder_at(str(path))
            images, others = find_images(folder)
            if not images:
                raise ConfigError(f"data.path: {folder} contains no images{but_others(others)}")
            say_skipped(folder, others)
            own = path.resolve().name if path.is_dir() else ""
            for image in images:
                above = [*reversed(image.split("/")[:-1]), own]
                yield str(folder / image), next((self._label_of[name] for name in above if name in self._label_of), -1)
        elif path.suffix.lower() in LISTS:
            yield from self._listed(path)
        else:
            yield str(path), -1

    def _listed(self, path: Path) -> Iterator[tuple[str, int]]:
        delimiter = LISTS[path.suffix.lower()]
        quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
        try:
            lines = read_text(path).removeprefix("\ufeff").splitlines()
            rows = [
                (number, row) for number, row in enumerate(csv.reader(lines, delimiter=delimiter, quoting=quoting), 1)
            ]
        except (OSError, ValueError, csv.Error) as error:
            raise ConfigError(f"data.path: {path} cannot be read as a list of images ({one_line(error)})") from error
        rows = [(number, [value.strip() for value in row]) for number, row in rows if any(map(str.strip, row))]
        if path.suffix.lower() == ".txt":
            rows = [(number, self._parted(path, row)) for number, row in rows]
        columns = [name.lower() for name in rows[0][1]] if rows else []
        place, label_place = 0, 1
        if header := [name for name in _PATHS if name in columns]:
            place = columns.index(header[0])
            label_place = next((columns.index(name) for name in _LABELS if name in columns), len(columns))
            rows = rows[1:]
        if not rows:
            raise ConfigError(f"data.path: {path} names no images; write one path per line")
        separator = f"; {'a comma' if delimiter == ',' else 'a tab'} separates the path and the class"
        separator = (
            separator.replace("a tab sep", "a tab or a comma sep") if path.suffix.lower() == ".txt" else separator
        )
        for number, row in rows:
            given = Path(row[place] if place < len(row) else "")
            file = next((each for each in (path.parent / given, given) if each.is_file()), None)
            if file is None:
                raise ConfigError(f"data.path: {path}, line {number}: there is no file {str(given)[:160]!r}{separator}")
            label = row[label_place] if label_place < len(row) else ""
            if label and self._label_of and label not in self._label_of:
                raise ConfigError(
                    f"data.path: {path}, line {number}: {label[:80]!r} is not a class of the run"
                    f"{nearest(label, self._label_of)}"
                )
            yield str(file), self._label_of.get(label, -1)

    def _parted(self, path: Path, row: list[str]) -> list[str]:
        """Return a line of a .txt file, parted at its last comma unless a tab parts it or the line is a path."""
        if len(row) > 1 or "," not in row[0] or any((folder / row[0]).is_file() for folder in (path.parent, Path())):
            return row
        return [value.strip() for value in row[0].rsplit(",", 1)]

    @property
    def workers(self) -> int:
        return 0 if len(self._files) <= _NO_WORKERS else super().workers

    @property
    def name_of_predictions(self) -> str:
        return self.name

    def kind_of_images(self, split: str) -> str:
        return ""  # they are read as a test split, but are new images

    def load(self, split: Split) -> EncodedImages | None:
        if split != "test":
            raise ConfigError("data: these images can only be read by predict and embed")
        return EncodedImages(
            Files(Path(), self._files),
            self._labels,
            self.size,
            crop_ratio=self.crop_ratio,
            skip_unreadable=self.skip_unreadable,
        )

    def _in_memory(self, images: ImageDataset) -> ImageDataset:
        return images  # each image is read once


def _labels(names: Sequence[str]) -> dict[str, int]:
    """Return the label of each name that only one class has. Two classes of ImageNet have the same name."""
    counts = Counter(names)
    return {name: label for label, name in enumerate(names) if counts[name] == 1}


def _name(paths: Sequence[str]) -> str:
    """Return a name for the images: that of the only folder or file, without its ending."""
    path = Path(paths[0]).expanduser().absolute().resolve()
    name = path.name if path.is_dir() else path.name.split(".")[0]
    return name if len(paths) == 1 and name else "images"
