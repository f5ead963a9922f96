"""Source: a run's student and images again, without its teacher's weights."""

import json
from contextlib import suppress
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
from kd_lightning.io.paths import resolve
from kd_lightning.models import Network
from kd_lightning.runs.results import FILE as RESULTS

ENDINGS = (".ckpt", ".safetensors")
CHUNK = 64
DEPTHS = ("*", "*/*", "*/*/*")
"""Where runs lie below a folder of them."""


@dataclass(frozen=True)
class Source:
    """What is exported, and the images that it is held to."""

    checkpoint: Path
    config: dict[str, Any]
    results: dict[str, Any]
    """results.json; {} for a run that is not finished."""
    network: Network
    """The student in eval mode, float32."""
    data: ImageData
    knows_classes: bool
    """Whether the student's classifier was trained; else its embedding is what there is to export."""
    split: str
    """Which images it is held to: test, else val, else train."""

    @property
    def evaluated(self) -> bool:
        """Whether results.json speaks of these weights."""
        chosen = self.results.get("protocol", {}).get("checkpoint")
        return self.checkpoint.name in (chosen, "student.safetensors") and bool(self.results)

    @property
    def class_names(self) -> list[str]:
        names = self.network.class_names or getattr(self.data, "class_names", [])
        return list(names) if self.knows_classes and len(names) == self.network.num_classes else []

    @property
    def images(self) -> ImageDataset:
        return self.data.datasets[self.split]

    def training_images(self) -> ImageDataset:
        """The training images, as they are in the data.

        Raises:
            ConfigError: where they cannot be read.
        """
        self.data.setup("fit")
        return self.data.datasets["train"]


def load(path: str, field: str = "ckpt_path") -> Source:
    """A run's student, from the run's folder, a checkpoint or a student.safetensors in it; needs no teacher.

    Raises:
        ConfigError: for what is no run's, or whose data cannot be read.
    """
    from kd_lightning.runs import loading

    found = resolve(path, field)
    checkpoint = _in_folder(found, field) if found.is_dir() else found
    if checkpoint.suffix not in ENDINGS:
        beside = sorted(file.name for file in checkpoint.parent.iterdir() if file.suffix in ENDINGS)
        raise ConfigError(f"{field}: {checkpoint} is no checkpoint{nearest(checkpoint.name, beside)}")
    beside = checkpoint.with_name(loading.CONFIG)
    config = loading.read_config(beside, field)
    student = _student(config, beside)
    with torch.random.fork_rng(devices=[]):
        arguments = {key: value for key, value in student.items() if key not in ("pretrained", "checkpoint", "dtype")}
        arguments.pop("num_classes", None)  # the weights' own
        network = Network(**arguments, checkpoint=str(checkpoint.absolute()))
        method, data = _built_without_teacher(config, beside, student, checkpoint)
    data.batch_size, data.augmentations = 1, []  # images as they are, any number of them
    data.prepare_data()
    knows = method.trains_classifier and network.num_classes > 0
    return Source(checkpoint, config, _results(checkpoint), network.eval(), data, knows, _split(data))


def spread(images: ImageDataset, count: int) -> Tensor:
    """Up to `count` images n,3,S,S uint8, evenly from all of a set, the first one and the last among them."""
    rows = torch.linspace(0, len(images) - 1, min(count, len(images))).round().long()
    return torch.cat([images.take(part).images.cpu() for part in rows.split(CHUNK)])


def resized(images: Tensor, side: int) -> Tensor:
    """Images N,3,H,W uint8 at another side, uint8 again."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True).round().clamp(0, 255).byte()


def _in_folder(folder: Path, field: str) -> Path:
    from kd_lightning.runs.loading import find_checkpoint

    try:
        return find_checkpoint(folder, field)
    except ConfigError as error:
        below = sorted({file.parent for depth in DEPTHS for file in folder.glob(f"{depth}/*.ckpt")})
        names = ", ".join(str(each.relative_to(folder)) for each in below[:3])
        raise ConfigError(f"{error}" + (f"; runs below it: {names}" if names else "")) from error


def _student(config: dict[str, Any], path: Path) -> dict[str, Any]:
    student = (config["model"].get("init_args") or {}).get("student")
    if not (isinstance(student, dict) and isinstance(student.get("name"), str)):
        raise ConfigError(f"{path}: it names no student (model.init_args.student.name)")
    return student


def _built_without_teacher(config: dict[str, Any], path: Path, student: dict[str, Any], checkpoint: Path) -> tuple:
    """The method and the data, the student in its teacher's place: what a method trains does not depend on whom."""
    from kd_lightning.runs.loading import build

    arguments = config["model"].get("init_args") or {}
    if not isinstance(arguments.get("teacher"), dict):
        return build(config, path)
    stand_in = {"name": student["name"], "checkpoint": str(checkpoint.absolute())}
    stand_in |= {"model_kwargs": student.get("model_kwargs")}
    changed = deepcopy(config)
    changed["model"]["init_args"]["teacher"] = stand_in
    try:
        return build(changed, path)
    except ConfigError:  # a method that wants more of a teacher than of a student
        return build(config, path)


def _results(checkpoint: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(checkpoint.with_name(RESULTS).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


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
