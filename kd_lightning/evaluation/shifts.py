"""Shifts: accuracy on other images of the same classes, such as ImageNet-V2, -A, -R and -Sketch."""

from pathlib import Path

import torch

from kd_lightning.data import ImageData
from kd_lightning.data.archives import folder_at
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.data.files import Files, find_images
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.evaluation.evaluator import EvaluationResult, Evaluator, accuracy
from kd_lightning.evaluation.network_view import NetworkView


class Shifts(Evaluator):
    """Logs `test/shift_<name>`: accuracy on further test images of all or some classes of the run's data.

    Each of the folders contains one folder of images per class. The name of a class folder is the name of the class or
    its id (WordNet's id). If all names are numbers, they are the indices of the classes (ImageNet-V2). If the folders
    contain fewer classes than the run's data, the scores of the missing classes are ignored, as is usual for ImageNet-A
    and ImageNet-R. If the classifier is not trained, the votes of the 10 nearest training images predict the class.

    Args:
        folders: Paths of folders or archives by name, as for ImageFolder. `~` and environment variables are expanded.
        crop_ratio: Share of the resized side that is kept, as for ImageFolder. Images are resized to the size of the
            run's images.
        teacher: Whether the teacher is also evaluated.

    Raises:
        ConfigError: if a folder contains no images, or if it contains classes that the data do not have.
    """

    def __init__(self, *, folders: dict[str, str], crop_ratio: float = 1.0, teacher: bool = False) -> None:
        super().__init__(teacher=teacher)
        if not folders:
            raise ConfigError("Shifts.folders: no folder is given; give at least one")
        self.folders, self.crop_ratio = folders, crop_ratio
        self.images: dict[str, EncodedImages] = {}

    def prepare(self, data: ImageData) -> None:
        data.setup("test")
        for name, path in self.folders.items():
            self.images[name] = self._images(data, folder_at(path), f"Shifts.folders.{name}")

    def _images(self, data: ImageData, folder: Path, field: str) -> EncodedImages:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        files: list[str] = []
        labels: list[int] = []
        for name, index in zip(names, _class_indices(names, data, f"{field}: {folder}"), strict=True):
            images = find_images(folder / name)[0]
            files += [f"{name}/{file}" for file in images]
            labels += [index] * len(images)
        if not files:
            raise ConfigError(f"{field}: {folder} contains no folders of images")
        side = data.datasets["test"].side
        return EncodedImages(Files(folder, files), torch.tensor(labels), side, crop_ratio=self.crop_ratio)

    def evaluate(self, view: NetworkView) -> EvaluationResult:
        values = {}
        for name, images in self.images.items():
            predictions = view.cache.read(view.network, view.data, images)
            classes = predictions.labels.unique()
            scores, labels = view.scores(predictions)[:, classes], torch.searchsorted(classes, predictions.labels)
            values[f"shift_{name}"] = accuracy(scores, labels)
        return EvaluationResult(values)


def _class_indices(names: list[str], data: ImageData, where: str) -> list[int]:
    """Return the class index of each folder. The folder names are all class names, all ids, or all indices."""
    for known in (data.class_names, data.class_ids):
        if {*names} <= {*known}:
            return [known.index(name) for name in names]
    if all(name.isdigit() for name in names):
        if out_of_range := [name for name in names if int(name) >= data.num_classes]:
            raise ConfigError(
                f"{where} has a folder {out_of_range[0]}, but the class indices are 0 to {data.num_classes - 1}"
            )
        return [int(name) for name in names]
    choices = {*data.class_names, *data.class_ids}
    unknown = next((name for name in names if name not in choices), names[0])
    raise ConfigError(f"{where} has a class {unknown} that the data do not have{nearest(unknown, choices)}")
