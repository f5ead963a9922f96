"""LoadedStudent: the student and the images of a run, loaded without the teacher's weights."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from kd_lightning.data import ImageData, RandomImages
from kd_lightning.data.images import ImageDataset
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.io.paths import resolve
from kd_lightning.models import Network
from kd_lightning.runs import student_alone
from kd_lightning.runs.evaluated import size_of_images
from kd_lightning.runs.results import FILE as RESULTS
from kd_lightning.runs.selected import WEIGHTS, selected

CHUNK = 64
_RANDOM_IMAGES = 10_000
"""A tenth of this number are the images with which a file is compared if the images of the run are unknown."""


@dataclass(frozen=True)
class LoadedStudent:
    """A student, and the images on which the exported files are compared with it."""

    checkpoint: Path
    config: dict[str, Any]
    results: dict[str, Any]
    """Content of results.json; {} for an unfinished run."""
    network: Network
    """The student, in eval mode and in float32."""
    data: ImageData
    knows_classes: bool
    """Whether the student's classifier was trained; otherwise only its embedding is exported."""
    split: str
    """Split for the comparison: `test` if it exists, otherwise `val`, otherwise `train`."""
    is_alone: bool = False
    """Whether the student is not in the folder of a run. The images are then random pixels."""
    random_pixels: bool = False
    """Whether the images are random pixels instead of images of the run."""

    @property
    def evaluated(self) -> bool:
        """Whether results.json contains the results of these weights."""
        evaluated_checkpoint = self.results.get("protocol", {}).get("checkpoint")
        return self.checkpoint.name in (evaluated_checkpoint, "student.safetensors") and bool(self.results)

    @property
    def class_names(self) -> list[str]:
        names = self.network.class_names or getattr(self.data, "class_names", [])
        return list(names) if self.knows_classes and len(names) == self.network.num_classes else []

    @property
    def images(self) -> ImageDataset:
        return self.data.datasets[self.split]

    def training_images(self) -> ImageDataset:
        """Return the training images without augmentation.

        Raises:
            ConfigError: if they cannot be read.
        """
        self.data.setup("fit")
        return self.data.datasets["train"]


def load(
    path: str, field: str = "ckpt_path", *, data_path: str | None = None, random_pixels: bool = False
) -> LoadedStudent:
    """Load a run's student from the run's folder, its config.yaml, or a checkpoint or student.safetensors in it.

    A student.safetensors may also be somewhere else, because its metadata describe the student.

    Args:
        path: path of the run or of the file.
        field: field of the path, for error messages.
        data_path: path of the run's images, instead of the path in its config.
        random_pixels: whether the images are random pixels. The images of the run are then not read.

    Raises:
        ConfigError: for another file that does not belong to a run, or if the data cannot be read.
    """
    found = selected(path, field, student=True)
    checkpoint = found.file
    if checkpoint.suffix not in WEIGHTS:
        siblings = sorted(file.name for file in checkpoint.parent.iterdir() if file.suffix in WEIGHTS)
        raise ConfigError(f"{field}: {checkpoint} is not a checkpoint{nearest(checkpoint.name, siblings)}")
    if line := found.line(field):
        rank_zero_info(line)
    if student_alone.is_alone(checkpoint):
        if data_path is not None:
            raise ConfigError(f"data_path: {checkpoint} is not in the folder of a run; give the folder of the run")
        return _of_file(checkpoint, field)
    from kd_lightning.runs import loading  # this module imports the parser, which few commands need

    config = loading.read_config(found.config, field)
    with torch.random.fork_rng(devices=[]):
        student = student_alone.of_run(config, found.config, checkpoint, field)
        network = Network(**student.arguments)
    knows_classes = bool(student.classifier_trained) and network.num_classes > 0
    results = _results(checkpoint, field)
    if random_pixels:
        facts = {**student.facts, "side": _side(config, checkpoint, student.facts)}
        data = _random_pixels(network, facts)
    else:
        data = _data_of_run(config, found.config, data_path)
    return LoadedStudent(
        checkpoint,
        config,
        results,
        network.eval(),
        data,
        knows_classes,
        _split(data),
        random_pixels=random_pixels,
    )


def _data_of_run(config: dict[str, Any], path: Path, data_path: str | None) -> ImageData:
    """Return the prepared data of a run.

    Raises:
        ConfigError: if the images cannot be read. The message names the options for missing images.
    """
    from kd_lightning.runs import loading

    data_config = config["data"]
    if data_path is not None:
        given = str(resolve(data_path, "data_path"))
        data_config = {**data_config, "init_args": {**(data_config.get("init_args") or {}), "path": given}}
    try:
        with torch.random.fork_rng(devices=[]):
            data = loading.build_data({**config, "data": data_config}, path)
        data.batch_size, data.augmentations = 1, []  # any number of images, without augmentation
        data.prepare_data()
        _split(data)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; if the images of the run have been moved, give --data_path PATH; if they are missing, "
            "--random_pixels compares the files on random pixels"
        ) from error
    return data


def _side(config: dict[str, Any], checkpoint: Path, facts: dict[str, Any]) -> int:
    arguments = config["data"].get("init_args") or {}
    side = size_of_images(config["data"]["class_path"], arguments, checkpoint.parent, facts)
    if side is None:
        raise ConfigError(f"random_pixels: the size of the images of {checkpoint} is unknown; give --data_path instead")
    return side


def _random_pixels(network: Network, facts: dict[str, Any]) -> ImageData:
    data = RandomImages(images=_RANDOM_IMAGES, size=facts["side"], classes=max(1, network.num_classes))
    data.name = "random pixels"
    data.class_names, data.class_ids = network.class_names or [], facts.get("class_ids") or []
    data.crop_ratio = facts.get("crop_ratio")
    return data


def _of_file(file: Path, field: str) -> LoadedStudent:
    """Load student.safetensors that is not in the folder of a run. Its images are random pixels."""
    student = student_alone.of_file(file, field)
    with torch.random.fork_rng(devices=[]):
        network = Network(**student.arguments)
    config = {"model": {"init_args": {"student": student.arguments}}}
    data = _random_pixels(network, student.facts)
    knows_classes = student.classifier_trained and network.num_classes > 0
    kinds = {"is_alone": True, "random_pixels": True}
    return LoadedStudent(file, config, {}, network.eval(), data, knows_classes, _split(data), **kinds)


def evenly_spaced(images: ImageDataset, count: int) -> Tensor:
    """Return up to `count` images n,3,S,S uint8 at regular intervals, including the first and the last image."""
    rows = torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()
    return torch.cat([images.take(part).images.cpu() for part in rows.split(CHUNK)])


def resize(images: Tensor, side: int) -> Tensor:
    """Resize images N,3,H,W uint8 to another side; the result is uint8."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True).round().clamp(0, 255).byte()


def _results(checkpoint: Path, field: str) -> dict[str, Any]:
    """Return the parts of results.json in which every value has the right type; {} if there is no such file.

    Raises:
        ConfigError: if the file is not the results.json of a run.
    """
    from kd_lightning.reports.results import ResultsError, read_results  # imports pandas, which few commands need

    path = checkpoint.with_name(RESULTS)
    if not os.path.lexists(path):
        return {}
    try:
        results, _ = read_results(path)
    except ResultsError as error:
        raise ConfigError(f"{field}: {path.parent}: {error}; remove the file to export without its results") from error
    parts = ("run", "code", "data", "protocol", "metrics")
    return {part: {k: v for k, v in getattr(results, part).items() if v is not None} for part in parts}


def _split(data: ImageData) -> str:
    problems = []
    for split, stage in (("test", "test"), ("val", "validate"), ("train", "fit")):
        try:
            data.setup(stage)
        except ConfigError as error:
            problems.append(error)
            continue
        if len(data.datasets.get(split, ())):
            return split
    raise problems[0] if problems else ConfigError(f"data: {data.name} has no images")
