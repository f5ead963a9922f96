"""The images on which the runs' students disagree most, from their predictions.safetensors."""

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

SMALLEST = 96
"""Pixels of a thumbnail's side; smaller images are enlarged by the browser."""


class UnavailableError(ValueError):
    """What cannot be shown; the message says why, in a line."""


@dataclass(frozen=True)
class Disagreement:
    """One image, and what was said of it."""

    index: int
    """Position in the data set's test split."""
    label: int
    votes: dict[str, dict[int, int]]
    """By group: how many of its runs said which class."""
    teacher: int | None
    disagreement: float
    """Entropy of the votes in bits, each group weighing the same."""


def read_predictions(runs: Runs) -> tuple[dict[Path, pd.DataFrame], list[str]]:
    """The predictions of each run that has some, by its folder: label, prediction, confidence, teacher, by index.

    A line for each file that cannot be used.
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


def most_disagreed(runs: Runs, tables: dict[Path, pd.DataFrame], most: int = 12) -> list[Disagreement]:
    """The images that all these runs evaluated, the most disagreed-on first, without those that all agree on.

    Args:
        runs: of one data set.
        tables: as `read_predictions` gives them.
        most: how many.

    Raises:
        UnavailableError: for fewer than two runs with predictions, or none of the same images.
    """
    evaluated = [run for run in runs if run.folder in tables]
    if len(evaluated) < 2:
        raise UnavailableError(f"{len(evaluated)} of {len(runs)} runs have {PREDICTIONS}; two are needed")
    common = tables[evaluated[0].folder].index
    for run in evaluated[1:]:
        common = common.intersection(tables[run.folder].index)
    aligned = [tables[run.folder].loc[common] for run in evaluated]
    if not len(common) or any((table["label"] != aligned[0]["label"]).any() for table in aligned):
        raise UnavailableError("the runs' predictions are not of the same images")
    votes = np.stack([table["prediction"] for table in aligned])
    members = Counter(run.group for run in evaluated)
    shares = np.array([1 / members[run.group] for run in evaluated]) / len(members)
    entropy = np.zeros(len(common))
    for value in np.unique(votes):
        share = ((votes == value) * shares[:, None]).sum(axis=0)
        entropy -= share * np.log2(np.where(share > 0, share, 1))
    sure = np.mean([table["confidence"] for table in aligned], axis=0)
    order = np.lexsort((-sure, -entropy.round(9)))[:most]
    teacher = next((table["teacher"] for table in aligned if "teacher" in table), None)
    return [
        Disagreement(
            int(common[row]),
            int(aligned[0]["label"].iloc[row]),
            {
                group: dict(
                    Counter(int(votes[n, row]) for n, run in enumerate(evaluated) if run.group == group).most_common()
                )
                for group in members
            },
            None if teacher is None else int(teacher.iloc[row]),
            float(entropy[row]),
        )
        for row in order.tolist()
        if entropy[row] > 1e-9
    ]


def images_at(runs: Runs, indices: Sequence[int], labels: Sequence[int]) -> torch.Tensor:
    """Images N,3,H,W uint8 of a data set's test split, read by the data module of the first config that can.

    Raises:
        UnavailableError: where no data module can be made or loaded here, or it holds other images.
    """
    reason, tried = "no run has a config.yaml", set()
    for run in runs:
        given = run.config.get("data")
        if not isinstance(given, dict) or repr(given) in tried or len(tried) == 3:
            continue
        tried.add(repr(given))
        try:
            images = _data_module(given).datasets["test"]
            rows = {int(index): row for row, index in enumerate(images.indices)}
            batch = images.take(torch.tensor([rows[index] for index in indices]))
            if batch.labels.tolist() != list(labels):
                raise ValueError("its test images are others than the runs'")
            return batch.images
        except (Exception, SystemExit) as error:  # whatever a stranger's data module raises
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = printable(lines[-1] if "\n" in str(error) else lines[0], 160)
    raise UnavailableError(f"the test images cannot be read here ({reason})")


def thumbnail(image: torch.Tensor) -> str:
    """An image 3,H,W uint8 as a PNG in a data URI, large ones shrunk."""
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    picture.thumbnail((2 * SMALLEST, 2 * SMALLEST))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _data_module(given: dict[str, Any]) -> ImageData:
    """With its test images loaded, and nothing that only training needs."""
    needless = ("augmentations", "mixing", "neighbors", "views", "repeats", "num_workers")
    arguments = {key: value for key, value in (given.get("init_args") or {}).items() if key not in needless}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageData, "data")
    config = parser.parse_object({"data": {"class_path": given.get("class_path"), "init_args": arguments}})
    data = parser.instantiate_classes(config).data
    data.setup("test")
    return data


def _table(path: Path) -> pd.DataFrame:
    with safe_open(path, "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    names = {"label": "labels", "prediction": "prediction", "confidence": "confidence", "teacher": "teacher_prediction"}
    missing = [name for name in ("labels", "indices", "prediction", "confidence") if name not in held]
    if missing:
        raise ValueError(f"no {', '.join(missing)} in it")
    count = held["indices"].numel()
    columns = {
        name: held[key].float().numpy() if key == "confidence" else held[key].long().numpy()
        for name, key in names.items()
        if key in held
    }
    if any(column.shape != (count,) for column in columns.values()):
        raise ValueError("its tensors are of different lengths")
    table = pd.DataFrame(columns, index=held["indices"].long().numpy())
    return table[~table.index.duplicated()]
