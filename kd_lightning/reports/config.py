"""config.yaml of a run: flat, and without what does not matter to a comparison."""

from pathlib import Path
from typing import Any

import yaml

from kd_lightning.io.safe_yaml import load_yaml
from kd_lightning.io.schema import schema_problem
from kd_lightning.reports.values import printable

OWN = (
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
"""Keys (or beginnings of keys) that are a run's own: seeds, names, folders, and what only this machine is about."""


def read_config(path: Path) -> tuple[dict[str, Any], str | None]:
    """A run's config.yaml as nested tables; {} and the reason in words where there is none or it is unreadable."""
    if not path.is_file():
        return {}, f"{path.name} is missing: settings cannot be compared, and its runs are grouped by name"
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no table of settings")
        if problem := schema_problem(content):
            raise ValueError(problem)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = printable(str(error) or type(error).__name__, 100)
        return {}, f"{path.name} cannot be read ({reason}): settings cannot be compared"
    return content, None


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """Nested settings as `model.temperature`: 4.0; a class stands under its own place (`model`: KD), lists in words."""
    found: dict[str, Any] = {}

    def walk(value: Any, key: str) -> None:
        if not isinstance(value, dict):
            found[key] = _in_words(value) if isinstance(value, list) else _scalar(value)
            return
        for name, inner in value.items():
            step = "" if name in ("class_path", "init_args") else printable(name, 80)
            walk(inner, f"{key}.{step}".strip("."))

    walk(config, "")
    return found


def compared(config: dict[str, Any]) -> dict[str, Any]:
    """The flat settings that two runs of one group share: all but OWN, empty ones, and the folders of files."""
    return {
        key: _file_name(value) for key, value in flat(config).items() if value is not None and not key.startswith(OWN)
    }


def differing(configs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of groups' settings (as `compared` gives them) those that are not the same for all: key to group to value."""
    keys = dict.fromkeys(key for config in configs.values() for key in config)
    tables = {key: {group: config.get(key) for group, config in configs.items()} for key in keys}
    return {key: values for key, values in tables.items() if len({repr(value) for value in values.values()}) > 1}


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = printable(value)
    ours = text.startswith(("kd_lightning.", "torch.optim."))
    return text.rpartition(".")[2] if ours else text


def _in_words(value: Any) -> str:
    """RandomCrop(padding=4) for an item of a list."""
    if isinstance(value, list):
        return printable(f"[{', '.join(map(_in_words, value))}]", 400)
    if not isinstance(value, dict):
        return printable(_scalar(value), 400)
    named = value.get("class_path")
    inner = value.get("init_args", {}) if named else value
    items = inner.items() if isinstance(inner, dict) else ()
    words = ", ".join(f"{printable(key, 40)}={_in_words(item)}" for key, item in items if item is not None)
    return printable(f"{_scalar(named)}({words})" if named else f"{{{words}}}", 400)


def _file_name(value: Any) -> Any:
    """A path without its folder, which is this machine's."""
    is_path = isinstance(value, str) and (value.startswith(("/", "~", "$", "./", "../")))
    return value.rstrip("/").rpartition("/")[2] if is_path and "://" not in value else value
