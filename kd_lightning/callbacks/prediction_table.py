"""The table of predictions, with one row per image, as CSV or parquet."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.io.atomic import atomic_write
from kd_lightning.io.markup import cell


def check_format(name: str) -> None:
    """Raise an error if pandas cannot write tables of this format.

    Raises:
        ConfigError: if the package for parquet is missing.
    """
    if name == "parquet" and find_spec("pyarrow") is None:
        raise ConfigError("predictions.format: parquet needs the package pyarrow: pip install pyarrow; or choose csv")


def table(tensors: Mapping[str, Tensor], paths: Sequence[str], class_names: Sequence[str], top_k: int) -> pd.DataFrame:
    """Return the table of N images.

    Args:
        tensors: `indices` N, `labels` N and, unless only embeddings are written, `logits` N,K.
        paths: paths of the N images, or [] if they have no files. The table then has the column `index` instead.
        class_names: names of the K classes. Without names, their numbers are used.
        top_k: number of classes for each image.
    """
    columns: dict[str, Any] = {"path": list(paths)} if paths else {"index": tensors["indices"].numpy()}
    labels, logits = tensors["labels"].numpy(), tensors.get("logits")
    count = max(len(class_names), labels.max(initial=-1) + 1, 0 if logits is None else logits.shape[1])
    names = np.array([*class_names, *map(str, range(len(class_names), count))], dtype=object)
    if logits is not None:
        best = logits.float().softmax(dim=1).topk(min(top_k, logits.shape[1]), dim=1)
        for rank, (confidences, classes) in enumerate(zip(best.values.T, best.indices.T, strict=True), 1):
            ending = "" if rank == 1 else f"_{rank}"
            columns[f"class{ending}"] = names[classes.numpy()]
            columns[f"confidence{ending}"] = confidences.numpy()
    if (labels >= 0).any():
        columns["label"] = np.where(labels >= 0, names[np.maximum(labels, 0)], "")
    return pd.DataFrame(columns)


def write(rows: pd.DataFrame, path: Path) -> None:
    """Write the table in the format of the path's ending. Texts for CSV cannot be formulas of a spreadsheet."""
    texts = [name for name in rows if not is_numeric_dtype(rows[name])]
    convert = cell if path.suffix == ".csv" else _encodable
    rows = rows.assign(**{name: [convert(text) for text in rows[name]] for name in texts})
    with atomic_write(path) as partial:
        if path.suffix == ".csv":
            rows.to_csv(partial, index=False, float_format="%.6g")
        else:
            rows.to_parquet(partial, index=False)


def lines(rows: pd.DataFrame) -> Iterator[str]:
    """Yield one line per image: its path or index, its class, and its confidence."""
    for name, label, confidence in zip(rows.iloc[:, 0], rows["class"], rows["confidence"], strict=True):
        yield f"{name}: {label} ({confidence:.1%})"


def _encodable(text: str) -> str:
    """Return a text in UTF-8; the name of a file may contain bytes that are not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
