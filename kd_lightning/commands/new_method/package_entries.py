"""The entries that a method of the package has in other files of the source code."""

import re
import subprocess
import sys
import time
from pathlib import Path

from kd_lightning.commands.catalog import PACKAGE
from kd_lightning.errors import ConfigError, RunError

_WRITTEN = {"docs.ledger": "docs/results.md", "tests.helpers.resolved": "tests/cli/resolved_configs.json"}
"""Modules of the source code that write a file from others, and these files."""


def checkout() -> Path:
    """Return the folder of the source code.

    Raises:
        ConfigError: if this package is installed without its source code.
    """
    root = PACKAGE.parent
    needed = ("README.md", "docs/ledger.yaml", "tests/methods", "configs/digits")
    if missing := [name for name in needed if not (root / name).exists()]:
        raise ConfigError(
            f"package: {root} is not a checkout of the source code, because it has no {missing[0]}; omit --package to "
            "write into the current folder"
        )
    return root


def entries(root: Path, class_name: str, module: str) -> dict[Path, str]:
    """Return the new contents of the files that name every method of the package."""
    changes = {
        PACKAGE / "methods/__init__.py": _init,
        root / "README.md": _readme,
        root / "docs/ledger.yaml": _ledger,
    }
    return {path: change(path.read_text(encoding="utf-8"), class_name, module) for path, change in changes.items()}


def rewrite(root: Path) -> None:
    """Run the modules that write a file from the entries; one of them reads all configs, which takes a while.

    Raises:
        RunError: if one of them fails. The message contains the command.
    """
    for name, written in _WRITTEN.items():
        print(f"python -m {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", name], cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            raise RunError(f"the files are written, but python -m {name} failed ({last}); run it in {root}")
        print(f"changed  {root / written}")


def _init(text: str, class_name: str, module: str) -> str:
    head, _, listed = text.partition("__all__ = [")
    lines = head.rstrip().splitlines()
    imports = [line for line in lines if line.startswith("from ")] + [_import(class_name, module)]
    others = lines[: lines.index(imports[0])]
    names = sorted({*re.findall(r'"(\w+)"', listed), class_name}, key=_order)
    exported = "".join(f'    "{name}",\n' for name in names)
    return "\n".join([*others, *sorted(imports)]) + f"\n\n__all__ = [\n{exported}]\n"


def _import(class_name: str, module: str) -> str:
    return f"from kd_lightning.methods.{module} import {class_name}"


def _order(name: str) -> tuple[bool, str]:
    """Return the key by which ruff sorts `__all__`: names in capital letters first."""
    return not (name.isupper() and len(name) > 1), name


def _readme(text: str, class_name: str, module: str) -> str:
    row = re.search(r"^\| its embeddings, with labels \|.*(?= \|$)", text, re.M)  # what the template reads
    if row is None:
        raise RunError("README.md has no row `its embeddings, with labels` in its table of methods; restore the row")
    return f"{text[: row.end()]}, `{class_name}` (AUTHORS {time.localtime().tm_year}){text[row.end() :]}"


def _ledger(text: str, class_name: str, module: str) -> str:
    rows = re.findall(r"^    - config: digits/\S+\n", text, re.M)
    row = f"    - config: digits/{module}.yaml\n      published: null\n      measured: not run here\n"
    later = next((each for each in rows if each > row.partition("\n")[0]), None)
    if later:
        return text.replace(later, row + later, 1)
    section = text.index("    - config: quickstart.yaml\n")
    return text[:section] + row + text[section:]
