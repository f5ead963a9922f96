"""Settings and fixtures of all tests: one thread, seeds, the folder of real data, the parser, a finished run."""

import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

pytest_plugins = ["helpers.method_times"]
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes that tests start
_CACHE = tempfile.TemporaryDirectory()  # deleted when the tests end
os.environ["XDG_CACHE_HOME"] = _CACHE.name
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Seed the global generators, so that a test draws the same numbers whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with real images and weights (KD_SHARED); without it, the tests that need it are skipped."""
    folder = Path(os.environ.get("KD_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real images and weights at {folder}; KD_SHARED names another place")
    return folder


@pytest.fixture(autouse=True)
def _shared_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Build the command line's parser once in the default run, and for each command in `e2e` and `slow`."""
    if not {"e2e", "slow"} & {mark.name for mark in request.node.iter_markers()}:
        from helpers import shared_parser  # imports Lightning, which xdist's main process does not need

        shared_parser.share(monkeypatch)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished KD run on the digits. All tests share it: copy it instead of changing it."""
    from helpers.finished_run import fit_once

    return fit_once(tmp_path_factory)
