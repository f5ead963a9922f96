"""Check whether the runs of several configs are comparable: same epochs, number of images, data and split."""

from collections.abc import Callable
from typing import Any

from kd_lightning.commands.repeat.plan import Config

_SPLIT = ("val_split", "split_seed")
_NOT_THE_DATA = (
    *_SPLIT, "batch_size", "global_batch_size", "eval_batch_size", "augmentations", "views",
    "view_augmentations", "repeats", "mixing", "neighbors", "predict_split", "memory_limit", "num_workers", "on_error",
    "seed", "labeled",
)  # fmt: skip


def differences(configs: list[Config]) -> str:
    """Return one line with the settings that make the runs less comparable, and their values; '' if there are none."""
    parts = []
    for title, value_of in _FIELDS.items():
        values = {config.path: value_of(config.content) for config in configs}
        if len({*values.values()} - {None}) > 1:
            parts.append(f"{title} ({', '.join(f'{path}: {value}' for path, value in values.items())})")
    return f"the configs differ in {'; '.join(parts)}" if parts else ""


def _images(content: dict[str, Any]) -> str:
    """Return as text the number of training images: of the run if max_steps is set, otherwise of an epoch."""
    data, trainer = content["data"]["init_args"], content["trainer"]
    batch = data.get("global_batch_size") or data.get("batch_size")
    steps, limit = trainer["max_steps"], trainer["limit_train_batches"]
    if steps not in (None, -1):
        return f"{batch * (trainer['accumulate_grad_batches'] or 1) * steps:,} images"
    if isinstance(limit, int):
        return f"{batch * limit:,} images per epoch"
    return "complete epochs" if limit in (None, 1.0) else f"{limit:.0%} of an epoch"


def _data(content: dict[str, Any]) -> str:
    settings = {k: v for k, v in content["data"]["init_args"].items() if k not in _NOT_THE_DATA and v is not None}
    name = content["data"]["class_path"].rpartition(".")[2]
    return " ".join([name, *(f"{key}={value}" for key, value in sorted(settings.items()))])


def _split(content: dict[str, Any]) -> str:
    return " ".join(f"{key}={content['data']['init_args'].get(key)}" for key in _SPLIT)


def _select(content: dict[str, Any]) -> str | None:
    return content["protocol"]["select"]  # None means that the run decides; `compare` reports the selected checkpoint


_FIELDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "trainer.max_epochs": lambda content: content["trainer"]["max_epochs"],
    "batch size x steps": _images,
    "data": _data,
    "validation split": _split,
    "protocol.select": _select,
}
