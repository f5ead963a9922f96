"""Download the runs of a W&B project, for `compare`, into folders like those of `fit`."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import wandb
import yaml

from kd_lightning.errors import ConfigError
from kd_lightning.io.schema import SCHEMA
from kd_lightning.loggers import has_key
from kd_lightning.reports.folders import CONFIG, HISTORY, RESULTS
from kd_lightning.reports.values import number, printable

PREFIX = "wandb:"
"""Prefix that distinguishes a W&B project from the path of a run: `wandb:entity/project`."""
FACTS = "results"
"""Key in a run's config on W&B with the parts run, code, data, protocol and seconds of results.json."""
_EVALUATED = ("test/", "cost/", "teacher/")
_CURVES = ("val/", "train/", "teacher/")


def fetch(address: str, folder: Path, api: Any = None) -> tuple[list[Path], list[str]]:
    """Write results, config and metrics of a project's finished runs to `<folder>/<project>/<name>/<id>/`, like `fit`.

    Args:
        address: `wandb:entity/project`, or `wandb:project` for the user's own entity.
        folder: folder for the runs.
        api: a `wandb.Api`. Default: a new object, with the key that `wandb login` has stored.

    Returns:
        The folders of the runs, and a line about skipped runs.

    Raises:
        ConfigError: if there is no key, no network or no run in the project, or if the address is invalid.
    """
    path = address.removeprefix(PREFIX)
    if not 1 <= len([part for part in path.split("/") if part]) == path.count("/") + 1 <= 2:
        raise ConfigError(f"runs: {address} is not a W&B project; write wandb:entity/project")
    if api is None and not has_key():
        raise ConfigError(f"runs: {address}: no W&B key found; run wandb login, or set WANDB_API_KEY")
    folders, skipped = [], []
    try:
        for run in (api or wandb.Api()).runs(path, lazy=False):
            results = results_of(run)
            if not any(name.startswith("test/") for name in results["metrics"]):
                skipped.append(f"{run.name} ({run.state})")
                continue
            folders.append(_write(run, results, folder))
    except Exception as error:  # the client and its HTTP library raise various errors
        reason = printable(str(error) or type(error).__name__, 200)
        raise ConfigError(f"runs: {address} cannot be read: {reason}") from error
    if not folders and not skipped:
        raise ConfigError(f"runs: {address} has no runs")
    skipped_text = ", ".join(skipped[:5]) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")
    return folders, [f"{address}: runs without results are skipped: {skipped_text}"] if skipped else []


def results_of(run: Any) -> dict[str, Any]:
    """Return the parts of a run's results.json that W&B has. Parts without a value under FACTS are inferred.

    Args:
        run: a `wandb.apis.public.Run`.
    """
    config, summary = dict(run.config), dict(run.summary_metrics)
    facts = config.get(FACTS) if isinstance(config.get(FACTS), dict) else {}
    metrics = {name: number(value) for name, value in summary.items() if name.startswith(_EVALUATED)}
    metrics |= {"val/acc": number(summary.get("best/val/acc", summary.get("val/acc")))}
    return {
        "schema": SCHEMA,
        "run": {**_run(run, config), **facts.get("run", {})},
        "code": {"commit": (run.commit or "")[:7] or None, **facts.get("code", {})},
        "data": {"name": _data(run, config), **facts.get("data", {})},
        "protocol": {
            "select": summary.get("selected/select"),
            "epoch": summary.get("selected/epoch"),
            "step": summary.get("selected/step"),
            "max_epochs": config.get("trainer", {}).get("max_epochs"),
            "evaluated": run.created_at,
            **facts.get("protocol", {}),
        },
        "seconds": facts.get("seconds", number((summary.get("_wandb") or {}).get("runtime"))),
        "metrics": {name: value for name, value in metrics.items() if value is not None},
        "details": {},
    }


def history_of(run: Any) -> list[dict[str, Any]]:
    """Return a run's logged values as in metrics.csv. A row has the epoch, the step and the values logged together."""
    rows = []
    for logged in run.scan_history():
        values = {name: value for name, value in logged.items() if name.startswith(_CURVES)}
        values = {name: value for name, value in values.items() if number(value) is not None}
        if values:
            rows.append({"epoch": logged.get("epoch"), "step": logged.get("trainer/global_step"), **values})
    return rows


def _write(run: Any, results: dict[str, Any], folder: Path) -> Path:
    parts = (printable(part).replace("/", "_").lstrip(".") or "run" for part in (run.project, run.name or "", run.id))
    run_folder = folder.joinpath(*parts)
    run_folder.mkdir(parents=True, exist_ok=True)
    (run_folder / RESULTS).write_text(json.dumps(results, indent=1) + "\n")
    config = {key: value for key, value in run.config.items() if key != FACTS}
    (run_folder / CONFIG).write_text(yaml.safe_dump(json.loads(json.dumps(config, default=str)), sort_keys=False))
    rows = history_of(run)
    columns = dict.fromkeys(["epoch", "step", *(name for row in rows for name in row)])
    with open(run_folder / HISTORY, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*columns])
        table.writeheader()
        table.writerows(rows)
    return run_folder


def _run(run: Any, config: dict[str, Any]) -> dict[str, Any]:
    model = config.get("model", {})
    networks = {part: _inner(model, "init_args", part, "name") for part in ("teacher", "student")}
    return {
        "project": run.project,
        "name": run.name,
        "id": run.id,
        "group": run.group,
        "method": (model.get("class_path") or run.job_type or "").rpartition(".")[2] or None,
        "seed": config.get("seed_everything"),
        "teacher_fingerprint": None,
        **networks,
    }


def _data(run: Any, config: dict[str, Any]) -> str | None:
    """Return the name of the data set: the first part of the run's group, or the class of its data module."""
    name, slash, _ = (run.group or "").partition("/")
    return name if slash else (_inner(config, "data", "class_path") or "").rpartition(".")[2].lower() or None


def _inner(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def split(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split paths into folders and addresses of W&B projects."""
    paths = [*paths]
    return [p for p in paths if not p.startswith(PREFIX)], [p for p in paths if p.startswith(PREFIX)]
