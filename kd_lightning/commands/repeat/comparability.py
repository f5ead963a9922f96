"""Whether configs are comparable: the same epochs, images, data and split."""

from collections.abc import Callable
from typing import Any

from kd_lightning.commands.repeat.plan import Config

_SPLIT = ("val_split", "split_seed")
_NOT_THE_DATA = (
    *_SPLIT, "batch_size", "global_batch_size", "eval_batch_size", "augmentations", "views", "repeats", "mixing",
    "neighbors", "predict_split", "memory_limit", "num_workers", "on_error", "seed", "labeled",
)  # fmt: skip


def differences(configs: list[Config]) -> str:
    """One line on what makes the configs' runs unequal, with the values; '' where nothing does."""
    found = []
    for title, value in _FIELDS.items():
        values = {config.path: value(config.content) for config in configs}
        if len({*values.values()} - {None}) > 1:
            found.append(f"{title} ({', '.join(f'{path}: {given}' for path, given in values.items())})")
    return f"the configs differ in {'; '.join(found)}" if found else ""


def _images(content: dict[str, Any]) -> str:
    """The images of a run where its steps are given; else they follow from the epochs and the data."""
    data, trainer = content["data"]["init_args"], content["trainer"]
    batch = data.get("global_batch_size") or data.get("batch_size")
    steps, limit = trainer["max_steps"], trainer["limit_train_batches"]
    if steps not in (None, -1):
        return f"{batch * (trainer['accumulate_grad_batches'] or 1) * steps:,} images"
    if isinstance(limit, int):
        return f"{batch * limit:,} images an epoch"
    return "whole epochs" if limit in (None, 1.0) else f"{limit:.0%} of an epoch"


def _data(content: dict[str, Any]) -> str:
    given = {k: v for k, v in content["data"]["init_args"].items() if k not in _NOT_THE_DATA and v is not None}
    name = content["data"]["class_path"].rpartition(".")[2]
    return " ".join([name, *(f"{key}={value}" for key, value in sorted(given.items()))])


def _split(content: dict[str, Any]) -> str:
    return " ".join(f"{key}={content['data']['init_args'].get(key)}" for key in _SPLIT)


def _evaluate(content: dict[str, Any]) -> str | None:
    return content["protocol"]["select"]  # None is as the method trains: `compare` tells what it was


_FIELDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "trainer.max_epochs": lambda content: content["trainer"]["max_epochs"],
    "batch size x steps": _images,
    "data": _data,
    "validation split": _split,
    "protocol.select": _evaluate,
}
