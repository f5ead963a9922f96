"""A container's first process is python itself: it hears docker stop's SIGTERM, and saves before the grace is over."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import processes

ROOT = Path(__file__).parents[2]
ALONE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
CLONE_NEWPID = 0x20000000
CODE = "import os, runpy; print('process', os.getpid(), flush=True); "
CODE += "runpy.run_module('kd_lightning', run_name='__main__')"
GRACE = 10
"""Seconds that docker stop waits for before it kills."""


def can_be_process_one() -> bool:
    """Whether this machine lets us begin a row of processes of their own."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


def executed(args: list[str], printed: Path) -> int:
    """Start `fit` as process 1 of a row of its own, as a container does; return the number of its parent."""
    with printed.open("w") as file:
        command = [*ALONE, sys.executable, "-c", CODE, *args]
        known = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, cwd=ROOT, env=known, stdout=file, stderr=file).pid


def forked(args: list[str], printed: Path) -> int:
    """Return the same of a fork of this process, which has imported all that `fit` needs."""
    if parent := os.fork():
        return parent
    status = 99
    try:
        if ctypes.CDLL(None).unshare(CLONE_NEWPID) == 0:
            sys.argv = ["kd_lightning", *args]
            os.chdir(ROOT)
            status = processes.run(lambda: exec(CODE, {}), printed)
    finally:
        os._exit(status)


@pytest.mark.skipif(not can_be_process_one(), reason="unshare --pid is not allowed here")
@pytest.mark.parametrize("begin", [forked, pytest.param(executed, marks=pytest.mark.e2e)])
def test_process_one_saves_and_ends_when_docker_stops_it(begin: Callable[..., int], tmp_path: Path) -> None:
    args = ["fit", "--config=configs/digits/kd.yaml", "--trainer.max_epochs=500", "--trainer.accelerator=cpu"]
    args += ["--trainer.enable_progress_bar=false", "--run.wandb=off", "--run.id=one", f"--run.output_dir={tmp_path}"]
    args += ["--data.max_train_samples=200", "--trainer.log_every_n_steps=1"]
    parent, ended = begin(args, tmp_path / "printed"), False
    children = Path(f"/proc/{parent}/task/{parent}/children")
    try:
        for _ in range(1200):
            logged = [*tmp_path.glob("*/*/one/metrics.csv")]
            if logged and len(logged[0].read_text().splitlines()) > 3:
                break
            ended = bool(os.waitpid(parent, os.WNOHANG)[0])
            assert not ended, (tmp_path / "printed").read_text()
            time.sleep(0.1)
        (child,) = children.read_text().split()
        began = time.monotonic()
        os.kill(int(child), signal.SIGTERM)
        status, ended = os.waitpid(parent, 0)[1], True  # pytest-timeout ends a wait that is too long
        took = time.monotonic() - began
        assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM
    finally:
        for number in [] if ended else [*children.read_text().split(), parent]:
            os.kill(int(number), signal.SIGKILL)
    assert "process 1\n" in (tmp_path / "printed").read_text()
    (run,) = tmp_path.glob("*/*/one")
    assert json.loads((run / "state.json").read_text())["state"] == "stopped"
    assert (run / "last.ckpt").stat().st_size > 0
    assert took < GRACE, f"{took:.1f} s"
