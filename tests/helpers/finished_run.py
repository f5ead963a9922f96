"""A short real run of `fit` for all tests that read a finished run."""

from pathlib import Path

import pytest
import wandb
from filelock import FileLock

from kd_lightning.cli import main

CONFIG = Path(__file__).parents[2] / "configs/digits/kd.yaml"
ARGS = [f"--config={CONFIG}", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


def fit_once(factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a KD run of three epochs on the digits, with W&B's file. Do not change it: copy it.

    The processes of pytest-xdist share it.
    """
    place = factory.getbasetemp()
    place = place.parent if place.name.startswith("popen-") else place
    run = place / "runs/kd_lightning-digits/kd-s0/r"
    with FileLock(place / "runs.lock"):
        if not run.exists():
            args = [*ARGS, f"--run.output_dir={place / 'runs'}", "--run.id=r", "--trainer.max_epochs=3"]
            main(["fit", *args, "--protocol.select=best"])
            wandb.finish()
    return run
