"""The settings in a run's config.yaml with flat keys, without settings that are irrelevant for a comparison."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from kd_lightning.io.safe_yaml import load_yaml
from kd_lightning.io.schema import schema_problem
from kd_lightning.reports.values import printable

IGNORED_KEYS = (
    "seed_everything",
    "ckpt_path",
    "weights_only",
    "run.",
    "data.seed",
    "data.num_workers",
    "data.memory_limit",
    "predictions.",
    "trainer.logger",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
)
"""Keys, or prefixes of keys, of settings of a single run or machine: seeds, names, folders, number of workers."""


def read_config(path: Path) -> tuple[dict[str, Any], str | None]:
    """Return a run's config.yaml as nested dicts and None; if it cannot be read, return {} and the reason."""
    if not path.is_file():
        return {}, f"{path.name} is missing, so its settings cannot be compared, and the run is grouped by its name"
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no table of settings")
        if problem := schema_problem(content):
            raise ValueError(problem)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = printable(str(error) or type(error).__name__, 100)
        return {}, f"{path.name} cannot be read ({reason}), so its settings cannot be compared"
    return content, None


def flatten_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return settings with flat keys (`model.temperature`: 4.0). A class becomes its name, a list becomes a text."""
    flattened: dict[str, Any] = {}

    def walk(value: Any, key: str) -> None:
        if not isinstance(value, dict):
            flattened[key] = _in_words(value) if isinstance(value, list) else _scalar(value)
            return
        for name, inner in value.items():
            step = "" if name in ("class_path", "init_args") else printable(name, 80)
            walk(inner, f"{key}.{step}".strip("."))

    walk(config, "")
    return flattened


def comparable_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the flat settings that define a group, without IGNORED_KEYS, empty values, and the folders of paths."""
    return {
        key: _file_name(value)
        for key, value in flatten_config(config).items()
        if value is not None and not key.startswith(IGNORED_KEYS)
    }


def differing_settings(configs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the results of `comparable_settings` that differ between groups: by key, a dict of the values by group."""
    keys = dict.fromkeys(key for config in configs.values() for key in config)
    tables = {key: {group: config.get(key) for group, config in configs.items()} for key in keys}
    return {key: values for key, values in tables.items() if len({repr(value) for value in values.values()}) > 1}


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = printable(value)
    is_own_class = text.startswith(("kd_lightning.", "torch.optim."))
    return text.rpartition(".")[2] if is_own_class else text


def _in_words(value: Any) -> str:
    """Return an item of a list as text, for example RandomCrop(padding=4). A long text is cut, and ends in its hash."""
    text = _as_text(value)
    return text if len(text) <= 400 else f"{text[:380]}... {sha256(text.encode()).hexdigest()[:8]}"


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return printable(f"[{', '.join(map(_as_text, value))}]", 100_000)
    if not isinstance(value, dict):
        return printable(_scalar(value), 400)
    class_path = value.get("class_path")
    arguments = value.get("init_args", {}) if class_path else value
    items = arguments.items() if isinstance(arguments, dict) else ()
    words = ", ".join(f"{printable(key, 40)}={_as_text(item)}" for key, item in items if item is not None)
    return printable(f"{_scalar(class_path)}({words})" if class_path else f"{{{words}}}", 100_000)


def _file_name(value: Any) -> Any:
    """Return the file name of a path, because the folder depends on the machine; other values are not changed."""
    is_path = isinstance(value, str) and (value.startswith(("/", "~", "$", "./", "../")))
    return value.rstrip("/").rpartition("/")[2] if is_path and "://" not in value else value
