"""Tiny networks, data and trainers, and lists of all methods."""

import copy
import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from _pytest.mark import ParameterSet
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from kd_lightning import methods
from kd_lightning.batch import Batch
from kd_lightning.data import Digits
from kd_lightning.data.images import ImageDataset
from kd_lightning.distillation import Combined, Distiller, StudentModule
from kd_lightning.distillation.unreached import in_each_stage
from kd_lightning.models import Network, checkpoints

MODULES: list[ModuleType] = [
    importlib.import_module(f"{methods.__name__}.{module.name}") for module in pkgutil.iter_modules(methods.__path__)
]
METHODS: list[type[StudentModule]] = [
    kind
    for module in MODULES
    for kind in vars(module).values()
    if inspect.isclass(kind) and issubclass(kind, StudentModule) and kind.__module__ == module.__name__
    if not inspect.isabstract(kind)
]


class CombinedOfThree(Combined):
    """Combination of a method on feature maps, a method on embeddings and a method with a queue."""

    def __init__(self, *, ce_weight: float = 1.0, kd_weight: float = 0.9, **kwargs: object) -> None:
        parts = [methods.SP, methods.RKD, partial(methods.SEED, queue_size=64)]
        super().__init__(parts=parts, ce_weight=ce_weight, kd_weight=kd_weight, **kwargs)


EVERY_METHOD = [*METHODS, CombinedOfThree]
SMALL = {
    "queue_size": 64,
    "negative_count": 32,
    "connect": True,
    "head_width": 16,
    "adaptive": False,
    "decay_start": 100,
}
"""Arguments of methods that make them small, and their weights constant."""
VIEWS = max(kind.min_views for kind in METHODS)
"""Views of each image in all tests of methods: as many as any method needs."""


def with_views(batch: Batch) -> Batch:
    """Return a batch with as many views as any method needs: the images, moved to the side by 1 pixel, 2 pixels, ..."""
    return batch._replace(views=tuple(batch.images.roll(number, -1) for number in range(1, VIEWS)))


def changed(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Return a batch without mixing, whose tensors are changed by a function."""
    return Batch(*map(change, batch[:4]), views=tuple(map(change, batch.views)))


def relates_samples(kind: type[StudentModule]) -> bool:
    """Whether the losses of a method compare samples: its class, or a base class, gathers those of all devices."""
    bases = [each for each in inspect.getmro(kind) if issubclass(each, StudentModule)]
    bases = [each for each in bases if each not in (StudentModule, Distiller, Combined)]
    return kind is CombinedOfThree or any(re.search(r"self\.all_gather\b", inspect.getsource(each)) for each in bases)


def reads_preactivations(kind: type[StudentModule]) -> bool:
    """Whether a method reads maps before their activation, for which it refuses ViTs."""
    return "Reads(preactivations" in inspect.getsource(kind)


def cuts_the_student(kind: type[StudentModule]) -> bool:
    """Whether a method cuts the student into a stem and branches, for which it refuses ViTs."""
    return "check_cut(" in inspect.getsource(kind)


def reads_class_maps(kind: type[StudentModule]) -> bool:
    """Whether a method refuses networks with more than pooling between their last map and their classifier."""
    return "pooled_map(" in inspect.getsource(inspect.getmodule(kind))


def refuses_vits(kind: type[StudentModule]) -> bool:
    """Whether a method refuses ViTs as the student."""
    return cuts_the_student(kind) or reads_preactivations(kind) or reads_class_maps(kind)


def some_by_default(kinds: list[type[StudentModule]], *default: str) -> list[ParameterSet]:
    """All methods as parameters of a test: the named ones are examples in the default run, the others are in `e2e`."""
    marks = dict.fromkeys(default, pytest.mark.example)
    return [pytest.param(kind, marks=marks.get(kind.__name__, pytest.mark.e2e)) for kind in kinds]


def method(kind: type[StudentModule], teacher: Network | None = None, **kwargs: object) -> StudentModule:
    """A method with a tiny student, a teacher that knows the digits, a short queue, and weights that do not change."""
    if issubclass(kind, Distiller):
        kwargs["teacher"] = teacher or copy.deepcopy(shared_teacher())
    small = {name: value for name, value in SMALL.items() if name in inspect.signature(kind).parameters}
    kwargs = {**small, **kwargs}
    networks = {name: enlarging(kind, network) for name, network in kwargs.items() if isinstance(network, Network)}
    return kind(**{"student": enlarging(kind, student()), **kwargs, **networks})


def enlarging(kind: type[StudentModule], network: Network) -> Network:
    """Return a network that enlarges the digits if its maps would have fewer positions than the method needs."""
    if kind.min_positions == 1 or hasattr(network.model, "patch_embed"):
        return network
    network = copy.copy(network)
    network.size = math.ceil(kind.min_positions**0.5) * network.model.feature_info[-1]["reduction"]
    return network


@cache
def shared_teacher() -> Network:
    """A teacher that knows the digits, read once; for methods that only read it."""
    return Network("cifar_resnet20.digits", pretrained=True)


def terms_of_all_stages(built: StudentModule, batch: Batch) -> dict[str, Tensor]:
    """Return the terms of a training step by name, of all stages of a run."""
    return {name: term for _ in in_each_stage(built) for name, term in built.training_terms(batch).items()}


def whole(images: ImageDataset) -> torch.Tensor:
    """Return all images of a data set without augmentation."""
    return images.take(torch.arange(len(images))).images


def weights(trained: StudentModule) -> torch.Tensor:
    """Return the student's parameters and BatchNorm statistics as one vector."""
    return torch.cat([value.flatten().double() for value in trained.student.state_dict().values()])


def student(classes: int = 10, **kwargs: object) -> Network:
    return Network("cifar_resnet8", num_classes=classes, model_kwargs={"channels": [4, 4, 8, 16]}, **kwargs)


def with_weights(folder: Path, name: str, classes: int = 10, **model_kwargs: object) -> Network:
    """Return a network with weights from a file; a teacher needs such weights."""
    path = folder / f"{name}.safetensors"
    fresh = Network(name, num_classes=classes, model_kwargs=model_kwargs)
    checkpoints.write(path, fresh.model.state_dict(), fresh.facts())
    return Network(name, checkpoint=str(path), model_kwargs=model_kwargs)


def digits(**kwargs: object) -> Digits:
    return Digits(**{"max_train_samples": 100, "batch_size": 50, "views": VIEWS, **kwargs})


def trainer(folder: Path, *callbacks: Callback, **kwargs: object) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    settings = {"max_epochs": 1, "accelerator": "cpu", "use_distributed_sampler": False, "enable_checkpointing": False}
    return Trainer(default_root_dir=folder, callbacks=[*callbacks], **{**quiet, **settings, **kwargs})
