"""A container's first process is python itself: it hears docker stop's SIGTERM, and saves before the grace is over."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALONE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
GRACE = 10
"""Seconds that docker stop waits for before it kills."""


def can_be_process_one() -> bool:
    """Whether this machine lets us begin a row of processes of their own."""
    if not shutil.which("unshare"):
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_be_process_one(), reason="unshare --pid is not allowed here")
def test_process_one_saves_and_ends_when_docker_stops_it(tmp_path: Path) -> None:
    args = ["--config=configs/digits/kd.yaml", "--trainer.max_epochs=500", "--trainer.accelerator=cpu"]
    args += ["--trainer.enable_progress_bar=false", "--run.wandb=off", "--run.id=one", f"--run.output_dir={tmp_path}"]
    seen = "import os, runpy; print('process', os.getpid(), flush=True); "
    seen += "runpy.run_module('kd_lightning', run_name='__main__')"
    known = os.environ | {"PYTHONPATH": str(ROOT)}
    with (tmp_path / "printed").open("w") as printed:
        outer = subprocess.Popen(
            [*ALONE, sys.executable, "-c", seen, "fit", *args], cwd=ROOT, env=known, stdout=printed, stderr=printed
        )
    try:
        for _ in range(1200):
            logged = [*tmp_path.glob("*/*/one/metrics.csv")]
            if logged and len(logged[0].read_text().splitlines()) > 3:
                break
            assert outer.poll() is None, (tmp_path / "printed").read_text()
            time.sleep(0.1)
        (child,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        began = time.monotonic()
        os.kill(int(child), signal.SIGTERM)
        assert outer.wait(timeout=60) == 128 + signal.SIGTERM
        took = time.monotonic() - began
    finally:
        if outer.poll() is None:
            outer.kill()
    assert "process 1\n" in (tmp_path / "printed").read_text()
    (run,) = tmp_path.glob("*/*/one")
    assert json.loads((run / "state.json").read_text())["state"] == "stopped"
    assert (run / "last.ckpt").stat().st_size > 0
    assert took < GRACE, f"{took:.1f} s"
