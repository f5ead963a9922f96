"""Shifts: the data's classes in images of another kind: ImageNet-V2, -A, -R, -Sketch and their like."""

from pathlib import Path

import torch

from kd_lightning.data import ImageData
from kd_lightning.data.archives import folder_at
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.files import Files, find
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.evaluation.probe import Findings, Probe, accuracy
from kd_lightning.evaluation.reading import Eyes


class Shifts(Probe):
    """Logs `test/shift_<name>`: accuracy on further test images of some or all of the data's classes.

    A folder holds one of images for each class, called as the data call it, by its id (WordNet's) or, where all names
    are numbers, by its place (ImageNet-V2). Where there are fewer classes, the scores of the others do not count, as
    is the custom for ImageNet-A and -R. Where the classifier is not trained, classes are by the votes of the 10
    nearest training images.

    Args:
        folders: paths by name, `~` and environment variables filled in; archives as for ImageFolder.
        crop_ratio: what share of the resized side is kept, as for ImageFolder; images have the size of the data's own.
        teacher: judge the teacher too.

    Raises:
        ConfigError: for folders without images or with classes that the data have not.
    """

    def __init__(self, *, folders: dict[str, str], crop_ratio: float = 1.0, teacher: bool = False) -> None:
        super().__init__(teacher=teacher)
        if not folders:
            raise ConfigError("Shifts.folders: name one folder at least")
        self.folders, self.crop_ratio = folders, crop_ratio
        self.images: dict[str, EncodedImages] = {}

    def prepare(self, data: ImageData) -> None:
        data.setup("test")
        for name, given in self.folders.items():
            self.images[name] = self._images(data, folder_at(given), f"Shifts.folders.{name}")

    def _images(self, data: ImageData, folder: Path, field: str) -> EncodedImages:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        files: list[str] = []
        labels: list[int] = []
        for name in names:
            found = find(folder / name)[0]
            files += [f"{name}/{file}" for file in found]
            labels += [_place(name, names, data, f"{field}: {folder}")] * len(found)
        if not files:
            raise ConfigError(f"{field}: {folder} holds no folders of images")
        side = data.sets["test"].side
        return EncodedImages(Files(folder, files), torch.tensor(labels), side, crop_ratio=self.crop_ratio)

    def judge(self, eyes: Eyes) -> Findings:
        found = {}
        for name, images in self.images.items():
            seen = eyes.reader.read(eyes.network, eyes.data, images)
            some = seen.labels.unique()
            found[f"shift_{name}"] = accuracy(eyes.scores(seen)[:, some], torch.searchsorted(some, seen.labels))
        return Findings(found)


def _place(name: str, names: list[str], data: ImageData, where: str) -> int:
    if all(each.isdigit() for each in names) and name not in data.class_names:
        if int(name) < data.num_classes:
            return int(name)
        raise ConfigError(f"{where}: class {name}, and the data have {data.num_classes}, from 0")
    for known in (data.class_names, data.class_ids):
        if name in known:
            return known.index(name)
    choices = {*data.class_names, *data.class_ids}
    raise ConfigError(f"{where} has a class {name} that the data have not{nearest(name, choices)}")
