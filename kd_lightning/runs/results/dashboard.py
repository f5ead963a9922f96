"""Log the results of a run to W&B: single numbers as summary values, and other results as tables."""

from collections.abc import Mapping
from typing import Any

import torch
import wandb
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.loggers import ResilientWandbLogger

SHOWN = 32
"""Largest number of images in the table `test/disagreement`."""


def log_tables(
    logger: ResilientWandbLogger, results: Mapping[str, Any], samples: Mapping[str, Tensor], data: ImageData
) -> None:
    """Log the results of a run to W&B, where a dashboard can compare runs.

    The W&B config gets a field `results` with the parts `run`, `code`, `data`, `protocol` and `seconds` of
    results.json. The command `compare wandb:...` reads this field.

    The W&B summary gets:

    * `val/...`, `test/...`, `cost/...`: values of the selected checkpoint. W&B itself would keep the last value.
    * `selected/...`: name, epoch and step of the selected checkpoint.
    * `last/...`: values of the last epoch.

    A table is logged if the run has the results for it:

    * `test/per_class`: accuracy of each class.
    * `test/disagreement`: images with different predictions of student and teacher, sorted by decreasing confidence.
    * `test/ood_histograms`: histograms of the scores of known and unknown images.

    Args:
        logger: logger of the run.
        results: result of `collect`.
        samples: result of `samples`.
        data: data of the run.
    """
    with logger.tolerated():
        _log(logger.experiment, results, samples, data)


def _log(run: Any, results: Mapping[str, Any], samples: Mapping[str, Tensor], data: ImageData) -> None:
    details = results["details"]
    facts = {part: results[part] for part in ("run", "code", "data", "protocol", "seconds")}
    run.config.update({"results": facts}, allow_val_change=True)
    selected = {f"selected/{key}": results["protocol"][key] for key in ("select", "epoch", "step")}
    last = results.get("last", {})
    run.summary.update({**results["metrics"], **selected, **{f"last/{key}": value for key, value in last.items()}})
    tables = {}
    if "per_class" in details:
        tables["test/per_class"] = _per_class(details["per_class"], data.class_names)
    if "teacher_prediction" in samples:
        tables["test/disagreement"] = _disagreement(samples, data)
    if "ood" in details:
        tables["test/ood_histograms"] = _histograms(details["ood"])
    if tables:
        run.log(tables)


def _per_class(values: Mapping[str, list], names: list[str]) -> wandb.Table:
    columns = [key for key in ("count", "accuracy", "accuracy_teacher") if key in values]
    rows = zip(names, *(values[key] for key in columns), strict=True)
    return wandb.Table(["class", *columns], [list(row) for row in rows])


def _disagreement(samples: Mapping[str, Tensor], data: ImageData) -> wandb.Table:
    differ = (samples["prediction"] != samples["teacher_prediction"]).nonzero()[:, 0]
    selected = differ[samples["confidence"][differ].argsort(descending=True)][:SHOWN]
    place = {index: row for row, index in enumerate(data.datasets["test"].indices.tolist())}
    rows = [place[index] for index in samples["indices"][selected].tolist()]
    images = data.datasets["test"].take(torch.tensor(rows)).images if rows else []
    names = [*data.class_names]
    columns = ["index", "image", "label", "student", "confidence", "teacher"]
    content = []
    for number, image in zip(selected.tolist(), images, strict=True):
        keys = ("labels", "prediction", "teacher_prediction")
        label, student, teacher = (names[int(samples[key][number])] for key in keys)
        picture = wandb.Image(image.permute(1, 2, 0).cpu().numpy())
        confidence = float(samples["confidence"][number])
        content.append([int(samples["indices"][number]), picture, label, student, confidence, teacher])
    return wandb.Table(columns, content)


def _histograms(histograms: Mapping[str, Mapping[str, list[float]]]) -> wandb.Table:
    rows = [
        [name, *bounds, known, unknown]
        for name, counts in histograms.items()
        for bounds, known, unknown in zip(
            zip(counts["edges"][:-1], counts["edges"][1:], strict=True), counts["known"], counts["unknown"], strict=True
        )
    ]
    return wandb.Table(["score and data", "from", "to", "known", "unknown"], rows)
