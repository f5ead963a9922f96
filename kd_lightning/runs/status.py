"""state.json: the state of a run, with its last epoch and step."""

import json
import os
import socket
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from kd_lightning.io.atomic import atomic_write
from kd_lightning.io.paths import read_text
from kd_lightning.runs.lock import Lock

FILE, LOCK = "state.json", "running.lock"


def read_state(folder: Path) -> dict[str, Any]:
    """Return the content of a run's state.json, including the key `state`.

    The state is `running`, `finished`, `failed` (with `error`), `stopped` (by a signal), `killed` (state.json contains
    `running`, but no process holds the lock) or `unknown`. If state.json is missing or unreadable, the state is
    `finished` if results.json exists, and `unknown` otherwise.
    """
    try:
        content = json.loads(read_text(folder / FILE))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        return {"state": "finished" if (folder / "results.json").exists() else "unknown"}
    if content.get("state") == "running" and not Lock(folder / LOCK).is_held():
        return {**content, "state": "killed"}
    return {"state": "unknown", **content}


def in_words(folder: Path) -> str:
    """Return a run's state as part of a sentence, for example `has finished`."""
    content = read_state(folder)
    if content["state"] == "running":
        return f"is running ({Lock(folder / LOCK).holder()})"
    if content["state"] == "failed":
        return f"has failed ({content.get('error')})"
    known = {"finished": "has finished", "stopped": "was stopped", "killed": "was killed"}
    return known.get(content["state"], "has not finished")


def write_state(folder: Path, state: str, **facts: Any) -> None:
    """Write a run's state. `running` means that a process starts or resumes the run; the previous content of the file
    is then appended to its list `before`.

    Args:
        folder: folder of the run.
        state: one of the states of `read_state`, except `killed` and `unknown`.
        **facts: further values for state.json, which JSON can represent.
    """
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    previous = read_state(folder) if (folder / FILE).exists() else {}
    if state == "running":
        # this process holds the lock, so a process that wrote `running` has ended
        if previous.get("state") == "running":
            previous["state"] = "killed"
        earlier = previous.pop("before", [])
        before = [*(earlier if isinstance(earlier, list) else []), previous] if previous else []
        content: Mapping[str, Any] = {"began": now, "process": os.getpid(), "host": socket.gethostname()}
        content = {**content, **({"before": before} if before else {})}
    else:
        content = {**previous, "ended": now}
    with atomic_write(folder / FILE) as partial:
        partial.write_text(json.dumps({"state": state, **{**content, "state": state, **facts}}, indent=1) + "\n")
