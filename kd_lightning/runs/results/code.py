"""Which code a run was made with."""

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


@cache
def code() -> dict[str, Any]:
    """The versions of this code and of what it stands on; the commit where it runs from a checkout of its own.

    `changed` says whether the package's files differ from the commit's; None where there is no commit.
    """
    commit = _git("rev-parse", "--short", "HEAD") if (ROOT / ".git").exists() else None
    changed = bool(_git("status", "--porcelain", "--", "kd_lightning")) if commit else None
    try:
        own = version("kd_lightning")
    except PackageNotFoundError:  # run from the source, not installed
        own = None
    others = {package: version(package) for package in ("torch", "lightning", "timm")}
    return {"version": own, "commit": commit, "changed": changed, **others}


def _git(*args: str) -> str | None:
    try:
        asked = subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None
