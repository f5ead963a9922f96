"""Runs with a teacher store that are killed and resumed, or run by two processes, are the runs without a store."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.processes import STEPS, fit, place

ARGS = ["--data=Digits", "--data.max_train_samples=64", "--data.val_split=16", "--data.batch_size=16"]
ARGS += ["--data.augmentation_epochs=2", "--model.student.name=cifar_resnet8"]
ARGS += ["--model.student.model_kwargs={channels: [4, 4, 8, 16]}", "--model.teacher.name=cifar_resnet20.digits"]
ARGS += ["--model.teacher.pretrained=true", "--guard.try_step=false"]


def metrics(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "metrics.csv").filter(regex="^(step|train/|val/|test/)")


@pytest.mark.e2e
@pytest.mark.parametrize("model", ["KD", "STKD"])
def test_a_killed_run_goes_on_with_a_store_that_is_half_filled(model: str, tmp_path: Path) -> None:
    args = [f"--model={model}", *ARGS]
    store = [*args, f"--model.teacher_store.path={tmp_path / 'store'}"]
    assert fit(tmp_path, args, name="plain", epochs=4) == 0
    assert fit(tmp_path, store, name="killed", epochs=4, end=("middle step", signal.SIGKILL, 1)) == -signal.SIGKILL
    filled = (np.fromfile(tmp_path / "store/checksums.bin", np.uint32) != 0).sum()
    assert 64 < filled < 128
    assert fit(tmp_path, store, name="killed", epochs=4) == 0
    expected = metrics(place(tmp_path, "plain"))
    assert (expected["step"].nunique()) >= 4 * STEPS
    pd.testing.assert_frame_equal(metrics(place(tmp_path, "killed")), expected, rtol=1e-5, atol=1e-6)
    assert (np.fromfile(tmp_path / "store/checksums.bin", np.uint32) != 0).all()


@pytest.mark.e2e
@pytest.mark.parametrize("model", ["KD", "STKD"])
def test_two_processes_share_a_store(model: str, tmp_path: Path) -> None:
    """The last run only reads what two processes have written."""
    args = [f"--model={model}", *ARGS, "--trainer.max_epochs=4", "--run.wandb=off", "--trainer.accelerator=cpu"]
    args += ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.log_every_n_steps=1", "--run.name=run"]
    store = [f"--model.teacher_store.path={tmp_path / 'store'}"]
    found = []
    for name, more in (("plain", []), ("filling", store), ("reading", store)):
        command = [sys.executable, "-m", "kd_lightning", "fit", *args, *more, f"--run.output_dir={tmp_path / 'runs'}"]
        command += [f"--run.id={name}", "--trainer.enable_progress_bar=false"]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=500)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(metrics(place(tmp_path, name)))
    assert "128 of 128 augmented images are stored" in done.stdout + done.stderr
    for other in found[1:]:
        pd.testing.assert_frame_equal(other, found[0], rtol=1e-5, atol=1e-6)
