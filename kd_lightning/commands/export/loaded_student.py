"""LoadedStudent: the student and the images of a run, loaded without the teacher's weights."""

import os
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.data.images import ImageDataset
from kd_lightning.errors import ConfigError, nearest
from kd_lightning.models import Network
from kd_lightning.runs.results import FILE as RESULTS
from kd_lightning.runs.selected import WEIGHTS, selected

CHUNK = 64


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


def load(path: str, field: str = "ckpt_path") -> LoadedStudent:
    """Load a run's student from the run's folder, its config.yaml, or a checkpoint or student.safetensors in it.

    Raises:
        ConfigError: for a file that does not belong to a run, or if the data cannot be read.
    """
    from kd_lightning.runs import loading  # this module imports the parser, which few commands need

    found = selected(path, field, student=True)
    checkpoint = found.file
    if checkpoint.suffix not in WEIGHTS:
        siblings = sorted(file.name for file in checkpoint.parent.iterdir() if file.suffix in WEIGHTS)
        raise ConfigError(f"{field}: {checkpoint} is not a checkpoint{nearest(checkpoint.name, siblings)}")
    config_path = found.config
    config = loading.read_config(config_path, field)
    student = _student(config, config_path)
    with torch.random.fork_rng(devices=[]):
        arguments = {key: value for key, value in student.items() if key not in ("pretrained", "checkpoint", "dtype")}
        arguments.pop("num_classes", None)  # determined by the weights
        network = Network(**arguments, checkpoint=str(checkpoint.absolute()))
        method, data = _built_without_teacher(
            loading.with_weights(config, checkpoint), config_path, student, checkpoint
        )
    data.batch_size, data.augmentations = 1, []  # any number of images, without augmentation
    data.prepare_data()
    knows_classes = method.trains_classifier and network.num_classes > 0
    return LoadedStudent(
        checkpoint, config, _results(checkpoint, field), network.eval(), data, knows_classes, _split(data)
    )


def evenly_spaced(images: ImageDataset, count: int) -> Tensor:
    """Return up to `count` images n,3,S,S uint8 at regular intervals, including the first and the last image."""
    rows = torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()
    return torch.cat([images.take(part).images.cpu() for part in rows.split(CHUNK)])


def resize(images: Tensor, side: int) -> Tensor:
    """Resize images N,3,H,W uint8 to another side; the result is uint8."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True).round().clamp(0, 255).byte()


def _student(config: dict[str, Any], path: Path) -> dict[str, Any]:
    student = (config["model"].get("init_args") or {}).get("student")
    if not (isinstance(student, dict) and isinstance(student.get("name"), str)):
        raise ConfigError(
            f"{path}: the name of the student is missing (model.init_args.student.name); give the files of a run"
        )
    return student


def _built_without_teacher(config: dict[str, Any], path: Path, student: dict[str, Any], checkpoint: Path) -> tuple:
    """Return method and data; the student's network replaces the teacher, so that no weights of a teacher are read."""
    from kd_lightning.runs.loading import build

    arguments = config["model"].get("init_args") or {}
    if not isinstance(arguments.get("teacher"), dict):
        return build(config, path)
    student_as_teacher = {"name": student["name"], "checkpoint": str(checkpoint.absolute())}
    student_as_teacher |= {"model_kwargs": student.get("model_kwargs")}
    changed = deepcopy(config)
    changed["model"]["init_args"]["teacher"] = student_as_teacher
    try:
        return build(changed, path)
    except ConfigError:  # some methods have conditions that only the teacher fulfils
        return build(config, path)


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
