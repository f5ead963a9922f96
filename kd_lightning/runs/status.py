"""Read and write state.json, which contains the state, the last epoch and the last step of a run."""

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

    The state is `running`, `finished`, `failed`, `stopped` (by a signal), `killed` or `unknown`. For a failed run, the
    content includes the key `error`. The state is `killed` if state.json contains `running`, but no process holds the
    lock. Without a readable state.json, the state is `finished` if the folder contains results.json, and `unknown`
    otherwise.
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
    """Return a run's state as the end of a sentence about the run, for example `has finished`."""
    content = read_state(folder)
    if content["state"] == "running":
        return f"is running ({Lock(folder / LOCK).holder()})"
    if content["state"] == "failed":
        return f"has failed ({content.get('error')})"
    known = {"finished": "has finished", "stopped": "was stopped", "killed": "was killed"}
    return known.get(content["state"], "has not finished")


def write_state(folder: Path, state: str, **facts: Any) -> None:
    """Write a run's state to state.json.

    A process writes `running` when it starts or resumes the run. If state.json already exists, its previous
    content is then appended to the list `before` in the new content.

    Args:
        folder: folder of the run.
        state: one of the states of `read_state`, except `killed` and `unknown`.
        **facts: further values for state.json, of types that JSON supports.
    """
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    previous = read_state(folder) if (folder / FILE).exists() else {}
    if state == "running":
        # this process holds the lock, so the process that wrote `running` no longer exists
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
