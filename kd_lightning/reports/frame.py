"""One table with all runs, which statistics and plots use."""

from collections.abc import Iterable

import pandas as pd

from kd_lightning.reports.axes import TEACHER, Metric, ordered
from kd_lightning.reports.config import flatten_config
from kd_lightning.reports.run_results import RunResult

FACTS = (
    "group name id project seed method teacher teacher_fingerprint student data classes train_images val_images "
    "test_images side select checkpoint epoch step max_epochs evaluated version commit changed torch folder"
).split()


def frame(runs: Iterable[RunResult], *, config: bool = False) -> pd.DataFrame:
    """Return one row per run: the columns FACTS, `seconds` of training, and the metrics with their names.

    Args:
        runs: a result of `read_runs`.
        config: whether the settings of config.yaml are added as `config/<key>`.
    """
    rows = []
    for run in runs:
        results = run.results
        facts = {**results.run, **results.code, **results.protocol}
        facts |= {"group": run.group, "name": run.name, "method": run.method, "folder": str(run.folder)}
        facts |= {"data": results.data["name"], "classes": results.data["classes"], "side": results.data["side"]}
        facts |= {f"{split}_images": results.data[split] for split in ("train", "val", "test")}
        settings = {f"config/{key}": value for key, value in flatten_config(run.config).items()} if config else {}
        metrics = {name: value for name, value in results.metrics.items() if name not in FACTS}
        rows.append({**{key: facts[key] for key in FACTS}, "seconds": results.seconds, **metrics, **settings})
    table = pd.DataFrame(rows, columns=None if rows else [*FACTS, "seconds"])
    table["seconds"] = table["seconds"].astype(float)
    return table


def metrics_of(table: pd.DataFrame) -> list[Metric]:
    """Return the student metrics that at least one run has, sorted by axis."""
    names = [name for name in table.columns if name not in FACTS and not name.startswith("config/")]
    return ordered(name for name in names if table[name].notna().any())


def teachers(table: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return the value of a metric for each teacher, by the name of the teacher, averaged over runs."""
    column = metric + TEACHER
    if column not in table:
        return {}
    known = table.dropna(subset=[column])
    means = known.groupby(known["teacher"].fillna("teacher"), sort=False)[column].mean()
    return {str(name): float(value) for name, value in means.items()}
