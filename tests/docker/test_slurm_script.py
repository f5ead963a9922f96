"""docker/slurm.sbatch with srun and scontrol played by small scripts: told to end, put back, gone on, finished."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docker/slurm.sbatch"
SRUN = """#!/usr/bin/env bash
# two machines of one device each: a process a rank, and the highest exit status, as srun has it
while [[ $1 == --* ]]; do shift; done
[[ $1 == python ]] && shift && set -- "{python}" "$@"
pids=()
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_NODEID=$rank SLURM_LOCALID=0 "$@" & pids+=($!)
done
echo "${{pids[@]}}" >"{folder}/pids"
highest=0
for pid in "${{pids[@]}}"; do
    status=0; wait "$pid" || status=$?
    ((status > highest)) && highest=$status
done
exit "$highest"
"""
SCONTROL = """#!/usr/bin/env bash
case "$1" in show) echo 127.0.0.1; echo 127.0.0.2 ;; *) echo "$@" >>"{folder}/asked" ;; esac
"""
ARGS = ["--run.wandb=off", "--trainer.enable_progress_bar=false", "--trainer.devices=1", "--trainer.accelerator=cpu"]
ARGS += ["--trainer.precision=32", "--trainer.sync_batchnorm=false", "--trainer.log_every_n_steps=1"]
ARGS += ["--data.batch_size=64", "--data.max_train_samples=300", "--trainer.max_epochs=6", "--protocol.every_n_steps=1"]


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a job's first machine, with srun and scontrol of our own."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text.format(folder=tmp_path, python=sys.executable))
        (tmp_path / name).chmod(0o755)
    known = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    known |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1"}
    job |= {"SLURM_NNODES": "2", "SLURM_NODELIST": "127.0.0.1", "SLURM_JOB_NODELIST": "127.0.0.[1-2]"}
    return known | job


def session(folder: Path, cluster: dict[str, str]) -> subprocess.Popen:
    """What SLURM does each time that it starts the job."""
    command = ["bash", str(SCRIPT), "configs/digits/kd.yaml", *ARGS, f"--run.output_dir={folder / 'runs'}"]
    output = (folder / "output").open("a")
    return subprocess.Popen(command, cwd=ROOT, env=cluster, stdout=output, stderr=output, start_new_session=True)


def wait_for_steps(folder: Path, job: subprocess.Popen, count: int) -> None:
    """Until the run has logged so many lines."""
    for _ in range(1200):
        logged = [*folder.glob("runs/*/*/4711/metrics.csv")]
        if logged and len(logged[0].read_text().splitlines()) > count:
            return
        assert job.poll() is None, (folder / "output").read_text()
        time.sleep(0.1)
    raise AssertionError((folder / "output").read_text())


@pytest.mark.e2e
def test_a_job_that_is_told_to_end_is_put_back_and_finishes(tmp_path: Path, cluster: dict[str, str]) -> None:
    first = session(tmp_path, cluster)
    try:
        wait_for_steps(tmp_path, first, 6)
        for pid in (tmp_path / "pids").read_text().split():  # --signal without B: all processes, not the script
            os.kill(int(pid), signal.SIGUSR1)
        assert first.wait(timeout=120) == 138, (tmp_path / "output").read_text()
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    (run,) = tmp_path.glob("runs/*/*/4711")
    assert json.loads((run / "state.json").read_text())["state"] == "stopped"
    assert not [*tmp_path.rglob("hpc_ckpt*")]

    second = session(tmp_path, cluster | {"SLURM_RESTART_COUNT": "1"})
    try:
        assert second.wait(timeout=240) == 0, (tmp_path / "output").read_text()
    finally:
        if second.poll() is None:
            os.killpg(second.pid, signal.SIGKILL)
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"  # not put back a second time
    state = json.loads((run / "state.json").read_text())
    assert state["state"] == "finished"
    assert [before["state"] for before in state["before"]] == ["stopped"]
    with (run / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row.get("train/loss")]
    assert steps == [*range(max(steps) + 1)]
    assert max(steps) + 1 == state["step"]


@pytest.mark.parametrize("status", ["0", "1", "2", "137"])
def test_a_job_that_has_failed_is_not_put_back(tmp_path: Path, cluster: dict[str, str], status: str) -> None:
    (tmp_path / "srun").write_text(f'#!/usr/bin/env bash\necho "$@" >"{tmp_path}/args"\nexit {status}\n')
    command = ["bash", str(SCRIPT), "a config.yaml", "--model.name=two words"]
    done = subprocess.run(command, cwd=ROOT, env=cluster, capture_output=True, text=True, check=False)
    assert done.returncode == int(status), done.stderr
    assert not (tmp_path / "asked").exists()
    given = (tmp_path / "args").read_text()
    assert "--config a config.yaml --config configs/trainer/slurm.yaml --model.name=two words" in given
    assert given.endswith("--run.id 4711 --ckpt_path last\n")
