"""Replace the images of a config by noise, and the weights of its teacher by random weights."""

import inspect
from pathlib import Path
from typing import Any

import yaml

from kd_lightning import data
from kd_lightning.io.paths import resolve
from kd_lightning.models import Network, checkpoints


def noise(config: str, images: int, folder: Path) -> list[str]:
    """Return arguments of `fit` that set RandomImages as the data, and random weights for the teacher.

    The random images have the same size and the same number of classes as the images of the config.

    Args:
        config: path of the config.
        images: number of random images.
        folder: folder to which the weights of the teacher are written.
    """
    path = resolve(config, "config")
    content, place = yaml.safe_load(path.read_text()), path.parent
    (images_of, _), (model, model_place) = (_value(content[field], place) for field in ("data", "model"))
    kind = getattr(data, images_of["class_path"].rpartition(".")[2], None)
    arguments, defaults = images_of.get("init_args", {}), inspect.signature(kind or data.ImageData).parameters
    size = arguments.get("size") or (defaults["size"].default if "size" in defaults else None) or 32
    classes = getattr(kind, "num_classes", None) or 10
    args = ["--data=RandomImages", f"--data.images={images}", f"--data.size={size}", f"--data.classes={classes}"]
    args += ["--data.val_split=0", "--data.max_train_samples=null", "--data.neighbors=null"]
    given = model.get("init_args", {}).get("teacher")
    if given is None:
        return args
    teacher, _ = _value(given, model_place)
    kwargs = teacher.get("model_kwargs", {})
    name = teacher["name"].partition(".")[0]
    network = Network(name, num_classes=classes, model_kwargs=kwargs)
    path = folder / f"{name}-{classes}.safetensors"
    checkpoints.write(path, network.model.state_dict(), network.facts())
    return [
        *args,
        f"--model.teacher.name={name}",
        f"--model.teacher.checkpoint={path}",
        "--model.teacher.pretrained=false",
    ]


def _value(value: dict[str, Any] | str, folder: Path) -> tuple[dict[str, Any], Path]:
    """Return the value of a field, and the folder to which the paths in it are relative.

    Args:
        value: value, or path of a sub-config with the value.
        folder: folder to which the path is relative.
    """
    if not isinstance(value, str):
        return value, folder
    path = folder / value
    return yaml.safe_load(path.read_text()), path.parent
