"""state.json: how far a run has come, and how it ended."""

import json
import os
import socket
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from kd_lightning.io.atomic import atomic_write
from kd_lightning.runs.lock import Lock

FILE, LOCK = "state.json", "running.lock"


def read_state(folder: Path) -> dict[str, Any]:
    """What a run's folder says of it; `state` is one of

    `running`, `finished`, `failed` (with `error`), `stopped` (told to end: it has saved where it was), `killed` (it
    ended without a word: no process holds its lock), `unknown` (from before there was state.json, without results).
    """
    try:
        found = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        return {"state": "finished" if (folder / "results.json").exists() else "unknown"}
    if found.get("state") == "running" and not Lock(folder / LOCK).is_held():
        return {**found, "state": "killed"}
    return {"state": "unknown", **found}


def in_words(folder: Path) -> str:
    """A run's state as a part of a sentence."""
    found = read_state(folder)
    if found["state"] == "running":
        return f"is running ({Lock(folder / LOCK).holder()})"
    if found["state"] == "failed":
        return f"has failed ({found.get('error')})"
    known = {"finished": "has finished", "stopped": "was stopped", "killed": "was killed"}
    return known.get(found["state"], "has not finished")


def write_state(folder: Path, state: str, **facts: Any) -> None:
    """Writes a run's state; a session that begins (`running`) puts those before it into the list `before`.

    Args:
        folder: the run's own.
        state: as `read_state` names them.
        **facts: further ones, as JSON.
    """
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    held = read_state(folder) if (folder / FILE).exists() else {}
    if state == "running":
        if held.get("state") == "running":  # by a process that is no more: this one has the lock
            held["state"] = "killed"
        earlier = held.pop("before", [])
        before = [*(earlier if isinstance(earlier, list) else []), held] if held else []
        found: Mapping[str, Any] = {"began": now, "process": os.getpid(), "host": socket.gethostname()}
        found = {**found, **({"before": before} if before else {})}
    else:
        found = {**held, "ended": now}
    with atomic_write(folder / FILE) as partial:
        partial.write_text(json.dumps({"state": state, **{**found, "state": state, **facts}}, indent=1) + "\n")
