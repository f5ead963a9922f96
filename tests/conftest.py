"""What tests share: one thread budget, the place of the real data, and tiny networks and data."""

import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

os.environ["WANDB_MODE"] = "offline"
_CACHE = tempfile.TemporaryDirectory()  # gone when the tests end
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
    """The folder with real images and weights (KD_SHARED); tests that need it are skipped where it is missing."""
    folder = Path(os.environ.get("KD_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real images and weights at {folder}; KD_SHARED names another place")
    return folder
