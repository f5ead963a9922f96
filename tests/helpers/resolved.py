"""All settings of every config, as `fit --print_config` resolves them, and their committed reference.

`python -m tests.helpers.resolved` rewrites the reference. Commit it together with the change that it shows.
"""

import contextlib
import io
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd_lightning.cli import main
from kd_lightning.runs.differences import flat

from .shared_parser import share

CONFIGS = Path(__file__).parents[2] / "configs"
REFERENCE = Path(__file__).parents[1] / "cli" / "resolved_configs.json"
NOT_FITTED = ("base", "eval", "sweeps", "trainer")
"""Folders of sub-configs, of additions to a config, and of W&B's sweeps."""
SHARE = 0.75
"""A setting of most configs is written once for all if at least this share of them has the same value."""


def fitted() -> list[Path]:
    """Return the configs that `fit` takes on their own."""
    files = sorted(CONFIGS.rglob("*.yaml"))
    return [file for file in files if not {*NOT_FITTED} & {*file.relative_to(CONFIGS).parts}]


@cache
def resolve(file: Path) -> dict[str, Any]:
    """Return all settings of a config; needs `helpers.shared_parser.share` to be quick.

    Raises:
        SystemExit: if the config is not valid.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            main(["fit", f"--config={file}", "--print_config"])
    except SystemExit as ended:
        if ended.code:
            raise
    return yaml.safe_load(printed.getvalue())


def reference() -> str:
    """Return the reference: values that nearly all configs share, then each config's other values.

    `settings` is the number of a config's settings, so that a setting that disappears shows as well.
    """
    every = {str(file.relative_to(CONFIGS)): flat(resolve(file)) for file in fitted()}
    counts: dict[str, Counter[str]] = {}
    for values in every.values():
        for name, value in values.items():
            counts.setdefault(name, Counter())[json.dumps(value)] += 1
    common = {}
    for name, found in sorted(counts.items()):
        value, times = found.most_common(1)[0]
        if times >= SHARE * found.total() and 2 * found.total() > len(every):
            common[name] = value
    tables = {"common": common}
    for path, values in every.items():
        own = {name: json.dumps(value) for name, value in sorted(values.items())}
        own = {name: value for name, value in own.items() if common.get(name) != value}
        tables[path] = {"settings": str(len(values)), **own}
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {_table(rows)}" for name, rows in tables.items()) + "\n}\n"


def _table(rows: dict[str, str]) -> str:
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {value}" for name, value in rows.items()) + "\n}"


if __name__ == "__main__":
    share(pytest.MonkeyPatch())
    REFERENCE.write_text(reference())
    print(f"wrote {REFERENCE}")
