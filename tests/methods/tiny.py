"""Tiny networks, data and trainers."""

from pathlib import Path

from lightning.pytorch import Callback, Trainer

from kd_lightning.data import Digits
from kd_lightning.models import Network, checkpoints


def student(**kwargs: object) -> Network:
    return Network("cifar_resnet8", num_classes=10, model_kwargs={"channels": [4, 4, 8, 16]}, **kwargs)


def with_weights(folder: Path, name: str, classes: int = 10, **model_kwargs: object) -> Network:
    """A network whose weights come from a file, as a teacher's must."""
    path = folder / f"{name}.safetensors"
    fresh = Network(name, num_classes=classes, model_kwargs=model_kwargs)
    checkpoints.write(path, fresh.model.state_dict(), fresh.facts())
    return Network(name, checkpoint=str(path), model_kwargs=model_kwargs)


def digits(**kwargs: object) -> Digits:
    return Digits(**{"train_images": 100, "batch_size": 50, **kwargs})


def trainer(folder: Path, *callbacks: Callback, **kwargs: object) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    settings = {"max_epochs": 1, "accelerator": "cpu", "use_distributed_sampler": False, "enable_checkpointing": False}
    return Trainer(default_root_dir=folder, callbacks=[*callbacks], **{**quiet, **settings, **kwargs})
