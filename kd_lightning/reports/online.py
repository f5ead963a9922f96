"""Runs of a W&B project, read by its public API into folders as `fit` leaves them, for `compare` to read."""

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
"""How a project stands among the paths of runs: `wandb:entity/project`."""
FACTS = "results"
"""Where a run's config on W&B holds results.json's run, code, data, protocol, seconds, if its writer put them there."""
_EVALUATED = ("test/", "cost/", "teacher/")
_CURVES = ("val/", "train/", "teacher/")


def fetch(address: str, folder: Path, api: Any = None) -> tuple[list[Path], list[str]]:
    """Writes a project's finished runs as `fit` would: `<folder>/<project>/<name>/<id>/` with results, config, metrics.

    Args:
        address: `wandb:entity/project`, or `wandb:project` of one's own.
        folder: for the runs' folders.
        api: a `wandb.Api`; default: a new one, with the key that `wandb login` left.

    Returns:
        The runs' folders, and a line for what was left out.

    Raises:
        ConfigError: in one line, without a key or a network, for an address that is none, or a project without runs.
    """
    path = address.removeprefix(PREFIX)
    if not 1 <= len([part for part in path.split("/") if part]) == path.count("/") + 1 <= 2:
        raise ConfigError(f"runs: {address} is no W&B project; write wandb:entity/project")
    if api is None and not has_key():
        raise ConfigError(f"runs: {address}: there is no W&B key; run wandb login, or set WANDB_API_KEY")
    folders, left_out = [], []
    try:
        for run in (api or wandb.Api()).runs(path, lazy=False):
            results = results_of(run)
            if not any(name.startswith("test/") for name in results["metrics"]):
                left_out.append(f"{run.name} ({run.state})")
                continue
            folders.append(_write(run, results, folder))
    except Exception as error:  # the client's, its HTTP library's or the server's: nothing here depends on which
        reason = printable(str(error) or type(error).__name__, 200)
        raise ConfigError(f"runs: {address} cannot be read: {reason}") from error
    if not folders and not left_out:
        raise ConfigError(f"runs: {address} has no runs")
    some = ", ".join(left_out[:5]) + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
    return folders, [f"{address}: without results, left out: {some}"] if left_out else []


def results_of(run: Any) -> dict[str, Any]:
    """A run's results.json as far as W&B has it: what its writer put under FACTS, else what can be told otherwise.

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
    """What a run logged on the way, as metrics.csv has it: rows of epoch, step and those values that came together."""
    rows = []
    for logged in run.scan_history():
        values = {name: value for name, value in logged.items() if name.startswith(_CURVES)}
        values = {name: value for name, value in values.items() if number(value) is not None}
        if values:
            rows.append({"epoch": logged.get("epoch"), "step": logged.get("trainer/global_step"), **values})
    return rows


def _write(run: Any, results: dict[str, Any], folder: Path) -> Path:
    parts = (printable(part).replace("/", "_").lstrip(".") or "run" for part in (run.project, run.name or "", run.id))
    there = folder.joinpath(*parts)
    there.mkdir(parents=True, exist_ok=True)
    (there / RESULTS).write_text(json.dumps(results, indent=1) + "\n")
    config = {key: value for key, value in run.config.items() if key != FACTS}
    (there / CONFIG).write_text(yaml.safe_dump(json.loads(json.dumps(config, default=str)), sort_keys=False))
    rows = history_of(run)
    columns = dict.fromkeys(["epoch", "step", *(name for row in rows for name in row)])
    with open(there / HISTORY, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [*columns])
        table.writeheader()
        table.writerows(rows)
    return there


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
    """The data set's name: how Run begins a group, else the data module's class."""
    name, slash, _ = (run.group or "").partition("/")
    return name if slash else (_inner(config, "data", "class_path") or "").rpartition(".")[2].lower() or None


def _inner(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def split(paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Paths of folders, and addresses of W&B projects."""
    paths = [*paths]
    return [p for p in paths if not p.startswith(PREFIX)], [p for p in paths if p.startswith(PREFIX)]
