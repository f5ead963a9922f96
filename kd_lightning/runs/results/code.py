"""The version of the code that executes a run."""

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


@cache
def code() -> dict[str, Any]:
    """Return the versions of this package and of its main libraries, and the git commit.

    `changed` is true if the files of the package differ from the commit. If the package is not in a git checkout,
    `commit` and `changed` are None.
    """
    commit = _git("rev-parse", "--short", "HEAD") if (ROOT / ".git").exists() else None
    changed = bool(_git("status", "--porcelain", "--", "kd_lightning")) if commit else None
    try:
        own = version("kd_lightning")
    except PackageNotFoundError:  # the package runs from its source and is not installed
        own = None
    others = {package: version(package) for package in ("torch", "lightning", "timm")}
    return {"version": own, "commit": commit, "changed": changed, **others}


def _git(*args: str) -> str | None:
    try:
        process = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
