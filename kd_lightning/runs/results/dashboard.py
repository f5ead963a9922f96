"""What a run's W&B page shows of its result: summary values, and tables of what is more than a number."""

from collections.abc import Mapping
from typing import Any

import torch
import wandb
from torch import Tensor

from kd_lightning.data import ImageData
from kd_lightning.loggers import ResilientWandbLogger

SHOWN = 32
"""Images in the table of disagreements."""


def log_tables(
    logger: ResilientWandbLogger, found: Mapping[str, Any], each: Mapping[str, Tensor], data: ImageData
) -> None:
    """Logs the result of a run so that a dashboard compares runs with no hand work.

    Config: what results.json says beside numbers, as `results`, so that `compare wandb:...` can read it back. Summary:
    which epoch was selected, and the values of the last epoch as `last/...`. Tables: `test/per_class`,
    `test/disagreement` (images on which student and teacher differ, the most confident first), `test/ood_histograms`.
    """
    with logger.tolerated():
        _log(logger.experiment, found, each, data)


def _log(run: Any, found: Mapping[str, Any], each: Mapping[str, Tensor], data: ImageData) -> None:
    details = found["details"]
    said = {part: found[part] for part in ("run", "code", "data", "protocol", "seconds")}
    run.config.update({"results": said}, allow_val_change=True)
    evaluated = {f"selected/{key}": found["protocol"][key] for key in ("select", "epoch", "step")}
    run.summary.update({**evaluated, **{f"last/{key}": value for key, value in found.get("last", {}).items()}})
    if "val/acc" in found["metrics"]:
        run.summary["best/val/acc"] = found["metrics"]["val/acc"]
    tables = {}
    if "per_class" in details:
        tables["test/per_class"] = _per_class(details["per_class"], data.class_names)
    if "teacher_prediction" in each:
        tables["test/disagreement"] = _disagreement(each, data)
    if "ood" in details:
        tables["test/ood_histograms"] = _histograms(details["ood"])
    if tables:
        run.log(tables)


def _per_class(found: Mapping[str, list], names: list[str]) -> wandb.Table:
    columns = [key for key in ("count", "accuracy", "accuracy_teacher") if key in found]
    rows = zip(names, *(found[key] for key in columns), strict=True)
    return wandb.Table(["class", *columns], [list(row) for row in rows])


def _disagreement(each: Mapping[str, Tensor], data: ImageData) -> wandb.Table:
    differ = (each["prediction"] != each["teacher_prediction"]).nonzero()[:, 0]
    chosen = differ[each["confidence"][differ].argsort(descending=True)][:SHOWN]
    place = {index: row for row, index in enumerate(data.datasets["test"].indices.tolist())}
    rows = [place[index] for index in each["indices"][chosen].tolist()]
    images = data.datasets["test"].take(torch.tensor(rows)).images if rows else []
    names = [*data.class_names]
    columns = ["index", "image", "label", "student", "confidence", "teacher"]
    content = []
    for number, image in zip(chosen.tolist(), images, strict=True):
        said = [names[int(each[key][number])] for key in ("labels", "prediction", "teacher_prediction")]
        picture = wandb.Image(image.permute(1, 2, 0).cpu().numpy())
        confidence = float(each["confidence"][number])
        content.append([int(each["indices"][number]), picture, said[0], said[1], confidence, said[2]])
    return wandb.Table(columns, content)


def _histograms(found: Mapping[str, Mapping[str, list[float]]]) -> wandb.Table:
    rows = [
        [name, *bounds, known, unknown]
        for name, counts in found.items()
        for bounds, known, unknown in zip(
            zip(counts["edges"][:-1], counts["edges"][1:], strict=True), counts["known"], counts["unknown"], strict=True
        )
    ]
    return wandb.Table(["score and data", "from", "to", "known", "unknown"], rows)
