"""Shifts: the data's classes in images of another kind: ImageNet-V2, -A, -R, -Sketch and their like."""

from pathlib import Path

import torch

from kd_lightning.data import ImageData
from kd_lightning.data.archives import folder_at
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.files import Files, find
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, accuracy
from kd_lightning.evaluation.network_view import NetworkView


class Shifts(Evaluator):
    """Logs `test/shift_<name>`: accuracy on further test images of some or all of the data's classes.

    A folder holds one of images for each class, called as the data call it, by its id (WordNet's) or, where all names
    are numbers, by its place (ImageNet-V2). Where there are fewer classes, the scores of the others do not count, as
    is the custom for ImageNet-A and -R. Where the classifier is not trained, classes are by the votes of the 10
    nearest training images.

    Args:
        folders: paths by name, `~` and environment variables filled in; archives as for ImageFolder.
        crop_ratio: what share of the resized side is kept, as for ImageFolder; images have the size of the data's own.
        teacher: evaluate the teacher too.

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
        for name, place in zip(names, _places(names, data, f"{field}: {folder}"), strict=True):
            found = find(folder / name)[0]
            files += [f"{name}/{file}" for file in found]
            labels += [place] * len(found)
        if not files:
            raise ConfigError(f"{field}: {folder} holds no folders of images")
        side = data.datasets["test"].side
        return EncodedImages(Files(folder, files), torch.tensor(labels), side, crop_ratio=self.crop_ratio)

    def evaluate(self, eyes: NetworkView) -> EvaluationResult:
        found = {}
        for name, images in self.images.items():
            seen = eyes.reader.read(eyes.network, eyes.data, images)
            some = seen.labels.unique()
            found[f"shift_{name}"] = accuracy(eyes.scores(seen)[:, some], torch.searchsorted(some, seen.labels))
        return EvaluationResult(found)


def _places(names: list[str], data: ImageData, where: str) -> list[int]:
    """The classes that folders are of: all are called by names, or by ids, or by places."""
    for known in (data.class_names, data.class_ids):
        if {*names} <= {*known}:
            return [known.index(name) for name in names]
    if all(name.isdigit() for name in names):
        if strange := [name for name in names if int(name) >= data.num_classes]:
            raise ConfigError(f"{where}: class {strange[0]}, and the data have {data.num_classes}, from 0")
        return [int(name) for name in names]
    choices = {*data.class_names, *data.class_ids}
    odd = next((name for name in names if name not in choices), names[0])
    raise ConfigError(f"{where} has a class {odd} that the data have not{nearest(odd, choices)}")
