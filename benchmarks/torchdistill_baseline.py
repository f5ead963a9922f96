"""The same training step in torchdistill 1.1.5: its own loop, losses and loader, but the same networks and images."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, RandomSampler
from torchvision import transforms

from kd_lightning.data import HorizontalFlip, RandomCrop
from kd_lightning.data.images import StoredImages
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.methods import KD, SP


class Pictures(Dataset):
    """A data set of images in memory. It returns one transformed Pillow image at a time, like torchvision's CIFAR10."""

    def __init__(self, images: StoredImages, transform: Any) -> None:
        self.pixels = images.images[images.places].permute(0, 2, 3, 1).cpu().numpy()
        self.labels, self.transform = images.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[row])), self.labels[row]


WORKERS = (0, 1, 2)
"""Numbers of workers with which the loader is measured; only the fastest one is printed."""


def runs_of(method: StudentModule, trainer: Trainer) -> dict[str, Callable[[int], None]]:
    """Return functions that run torchdistill's DistillationBox for a number of steps.

    There is one function for each number of workers and each of two precisions: the precision of the run, and float32.

    Args:
        method: object of KD or SP, which is copied, including its networks and settings.
        trainer: trainer of the run, including its data.

    Raises:
        ConfigError: if the method, the data or an augmentation has no equivalent in torchdistill.
    """
    if type(method) not in (KD, SP) or (isinstance(method, SP) and method.layers != 1):
        raise ConfigError(f"against: only KD, and SP of the last maps, can be compared, not {type(method).__name__}")
    images, steps = trainer.datamodule.datasets["train"], trainer.datamodule.train_transforms
    known = all(isinstance(s, HorizontalFlip) or (isinstance(s, RandomCrop) and s.mode == "zero") for s in steps)
    if not isinstance(images, StoredImages) or not known or trainer.datamodule.mixing:
        raise ConfigError("against: only images in memory with RandomCrop and HorizontalFlip can be compared")
    plain = deepcopy(method).to(memory_format=torch.contiguous_format)
    contexts = {f"torchdistill in {trainer.precision}": trainer.precision_plugin.train_step_context}
    if trainer.precision != "32-true":
        contexts["torchdistill"] = nullcontext  # torchdistill's default is float32: mixed precision needs a library
    return {
        f"{name}, {count} workers": _Runner(deepcopy(plain), trainer, images, count, context).run
        for name, context in contexts.items()
        for count in WORKERS
    }


class _Runner:
    """Runs torchdistill's loop for a number of steps at a time, in the same way as torchdistill's examples."""

    def __init__(
        self, method: StudentModule, trainer: Trainer, images: StoredImages, workers: int, context: Any
    ) -> None:
        from torchdistill.core.distillation import DistillationBox

        data = trainer.datamodule
        transform = [
            transforms.RandomCrop(data.side, step.padding)
            if isinstance(step, RandomCrop)
            else transforms.RandomHorizontalFlip(step.probability)
            for step in data.train_transforms
        ]
        normalise = transforms.Normalize(
            *(value.flatten().tolist() for value in (method.student.mean, method.student.std))
        )
        pictures = Pictures(images, transforms.Compose([*transform, transforms.ToTensor(), normalise]))
        loader = {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler, "kwargs": {}},
            "kwargs": {
                "batch_size": data.batch_size,
                "num_workers": workers,
                "drop_last": True,
                "pin_memory": method.device.type == "cuda",
                "persistent_workers": workers > 0,
            },
        }
        config = {"num_epochs": 1, "train_data_loader": loader, **_config(method)}
        self.box = DistillationBox(
            method.teacher.model, method.student.model, {"train": pictures}, config, method.device, None, False, 1
        )
        self.box.optimizer = method.optimizer(self.box.student_model.parameters())
        self.box.grad_accum_step = trainer.accumulate_grad_batches
        self.context, self.device = context, method.device
        self.batches = self._batches()

    def _batches(self) -> Iterator[Any]:
        epoch = 0
        while True:
            self.box.pre_epoch_process(epoch=epoch)
            self.box.teacher_model.eval()  # torchdistill does not set the mode of a frozen teacher
            yield from self.box.train_data_loader
            epoch += 1

    def run(self, steps: int) -> None:
        for _ in range(steps):
            images, labels, extra = next(self.batches)
            images, labels = (value.to(self.device, non_blocking=True) for value in (images, labels))
            with self.context():
                loss = self.box.forward_process(images, labels, extra)
            self.box.post_forward_process(loss)


def _config(method: StudentModule) -> dict[str, Any]:
    """Return torchdistill's settings for the networks and the loss of a method."""
    student_output = {"is_from_teacher": False, "module_path": ".", "io": "output"}
    wrapped = {"key": "SimpleLossWrapper", "kwargs": {"input": student_output, "target": {"uses_label": True}}}
    entropy = {"criterion": {"key": "CrossEntropyLoss", "kwargs": {}}, "criterion_wrapper": wrapped}
    terms: dict[str, Any] = {"ce": {**entropy, "weight": method.ce_weight}} if method.needs_labels else {}
    logits = {
        f"{role}_module_{what}": value
        for role in ("student", "teacher")
        for what, value in (("path", "."), ("io", "output"))
    }
    if method.kd_weight:  # without alpha, torchdistill's KDLoss does not multiply by tau^2
        settings = {
            **logits,
            "temperature": method.kd_temperature,
            "alpha": None,
            "reduction": "batchmean",
            "beta": 1.0,
        }
        weight = method.kd_weight * method.kd_temperature**2
        terms["kd"] = {"criterion": {"key": "KDLoss", "kwargs": settings}, "weight": weight}
    read = {"teacher": [], "student": []}
    if isinstance(method, SP):
        read = {role: [getattr(method, role).model.feature_info[-1]["module"]] for role in read}
        settings = {f"{role}_output_path": path for role, (path,) in read.items()} | {"reduction": "batchmean"}
        terms["sp"] = {"criterion": {"key": "SPKDLoss", "kwargs": settings}, "weight": method.sp_weight}
    forward = {"forward_proc": "forward_batch_only", "sequential": []}
    return {
        **{
            role: {**forward, "forward_hook": {"input": [], "output": read[role]}, "requires_grad": role == "student"}
            for role in read
        },
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
    }
