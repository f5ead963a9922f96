"""The images on which the students of several runs disagree most, according to predictions.safetensors."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from safetensors import SafetensorError, safe_open

from kd_lightning.data import ImageData
from kd_lightning.reports.run_results import Runs
from kd_lightning.reports.values import printable
from kd_lightning.runs.results import PREDICTIONS

THUMBNAIL_SIDE = 96
"""Largest side of a thumbnail in pixels; the browser enlarges smaller images."""


class UnavailableError(ValueError):
    """Images cannot be shown; the message is one line with the reason."""


@dataclass(frozen=True)
class Disagreement:
    """One image and its predictions."""

    index: int
    """Index of the image in the test split."""
    label: int
    votes: dict[str, dict[int, int]]
    """For each group: the number of its runs that predict each class."""
    teacher: int | None
    disagreement: float
    """Entropy of the predicted classes in bits, where all groups have equal weight."""


def read_predictions(runs: Runs) -> tuple[dict[Path, pd.DataFrame], list[str]]:
    """Return the predictions of the runs by folder, and one line for each file that cannot be used.

    The predictions of a run are a table. Its index is the index of the image, and its columns are label, prediction,
    confidence and teacher.
    """
    tables, problems = {}, []
    for run in runs:
        path = run.folder / PREDICTIONS
        if not path.is_file():
            continue
        try:
            tables[run.folder] = _table(path)
        except (OSError, ValueError, SafetensorError) as error:
            problems.append(f"{path}: it cannot be used ({printable(error, 80)})")
    return tables, problems


def most_disagreed(runs: Runs, tables: dict[Path, pd.DataFrame], limit: int = 12) -> list[Disagreement]:
    """Return the images with the largest disagreement, among the images that all runs have evaluated.

    Args:
        runs: runs of one data set.
        tables: a result of `read_predictions`.
        limit: largest number of images. Images on which all runs agree are skipped.

    Raises:
        UnavailableError: if fewer than two runs have predictions, or if they have no images in common.
    """
    evaluated = [run for run in runs if run.folder in tables]
    if len(evaluated) < 2:
        raise UnavailableError(f"{len(evaluated)} of {len(runs)} runs have {PREDICTIONS}, and at least 2 are needed")
    common = tables[evaluated[0].folder].index
    for run in evaluated[1:]:
        common = common.intersection(tables[run.folder].index)
    aligned = [tables[run.folder].loc[common] for run in evaluated]
    if not len(common) or any((table["label"] != aligned[0]["label"]).any() for table in aligned):
        raise UnavailableError("the runs' predictions are for different images")
    votes = np.stack([table["prediction"] for table in aligned])
    group_sizes = Counter(run.group for run in evaluated)
    shares = np.array([1 / group_sizes[run.group] for run in evaluated]) / len(group_sizes)
    entropy = np.zeros(len(common))
    for value in np.unique(votes):
        share = ((votes == value) * shares[:, None]).sum(axis=0)
        entropy -= share * np.log2(np.where(share > 0, share, 1))
    confidence = np.mean([table["confidence"] for table in aligned], axis=0)
    order = np.lexsort((-confidence, -entropy.round(9)))[:limit]
    teacher = next((table["teacher"] for table in aligned if "teacher" in table), None)
    return [
        Disagreement(
            int(common[row]),
            int(aligned[0]["label"].iloc[row]),
            {
                group: dict(
                    Counter(int(votes[n, row]) for n, run in enumerate(evaluated) if run.group == group).most_common()
                )
                for group in group_sizes
            },
            None if teacher is None else int(teacher.iloc[row]),
            float(entropy[row]),
        )
        for row in order.tolist()
        if entropy[row] > 1e-9
    ]


def load_images(runs: Runs, indices: Sequence[int], labels: Sequence[int]) -> torch.Tensor:
    """Return images N,3,H,W uint8 of the test split, loaded with the config of the first run for which this succeeds.

    Raises:
        UnavailableError: if no run's data can be loaded on this machine, or if the images differ from those of the
            runs.
    """
    reason, tried = "no run has a config.yaml", set()
    for run in runs:
        data_config = run.config.get("data")
        if not isinstance(data_config, dict) or repr(data_config) in tried or len(tried) == 3:
            continue
        tried.add(repr(data_config))
        try:
            images = _data_module(data_config).datasets["test"]
            rows = {int(index): row for row, index in enumerate(images.indices)}
            batch = images.take(torch.tensor([rows[index] for index in indices]))
            if batch.labels.tolist() != list(labels):
                raise ValueError("its test images differ from the runs'")
            return batch.images
        except (Exception, SystemExit) as error:  # a user's data module may raise anything
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = printable(lines[-1] if "\n" in str(error) else lines[0], 160)
    raise UnavailableError(f"the test images cannot be read here ({reason})")


def thumbnail(image: torch.Tensor) -> str:
    """Return an image 3,H,W uint8 as a data URI with a PNG; large images are reduced in size."""
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    picture.thumbnail((2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _data_module(data_config: dict[str, Any]) -> ImageData:
    """Return a data module with loaded test images; arguments that only training needs are omitted."""
    training_arguments = (
        "augmentations",
        "mixing",
        "neighbors",
        "views",
        "view_augmentations",
        "repeats",
        "num_workers",
    )
    arguments = {
        key: value for key, value in (data_config.get("init_args") or {}).items() if key not in training_arguments
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageData, "data")
    config = parser.parse_object({"data": {"class_path": data_config.get("class_path"), "init_args": arguments}})
    data = parser.instantiate_classes(config).data
    data.setup("test")
    return data


def _table(path: Path) -> pd.DataFrame:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    names = {"label": "labels", "prediction": "prediction", "confidence": "confidence", "teacher": "teacher_prediction"}
    missing = [name for name in ("labels", "indices", "prediction", "confidence") if name not in tensors]
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    count = tensors["indices"].numel()
    columns = {
        name: tensors[key].float().numpy() if key == "confidence" else tensors[key].long().numpy()
        for name, key in names.items()
        if key in tensors
    }
    if any(column.shape != (count,) for column in columns.values()):
        raise ValueError("its tensors have different lengths")
    table = pd.DataFrame(columns, index=tensors["indices"].long().numpy())
    return table[~table.index.duplicated()]
