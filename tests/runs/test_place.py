"""The room of a run: a full disk is an error before the first step, and one line later."""

import errno
import resource
import shutil
from pathlib import Path

import pytest
import torch
from helpers import factories

from kd_lightning.callbacks.known_errors import known_error
from kd_lightning.errors import ConfigError, RunError
from kd_lightning.methods import KD, SEED
from kd_lightning.runs.place import check_room, checkpoint_bytes


@pytest.mark.parametrize(
    ("optimizer", "states"), [(torch.optim.Adam, 2), (torch.optim.RMSprop, 1), (torch.optim.SGD, 0)]
)
def test_the_size_of_a_checkpoint_is_known_before_it_is_written(
    optimizer: type[torch.optim.Optimizer], states: int, tmp_path: Path
) -> None:
    method = factories.method(SEED, optimizer=lambda parameters: optimizer(parameters, lr=0.01), queue_size=5000)
    trainer = factories.trainer(tmp_path, limit_train_batches=1)
    trainer.fit(method, datamodule=factories.digits())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    written = (tmp_path / "x.ckpt").stat().st_size
    assert checkpoint_bytes(method) == pytest.approx(written, rel=0.1)


def test_a_disk_without_room_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = factories.method(KD)
    size = checkpoint_bytes(method)
    for free, resumes, fits in ((2**20 + size, True, True), (2**20 + size, False, False), (2**20, True, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: (2**40, 0, free))
        if fits:
            check_room(tmp_path / "runs" / "x", method, resumes=resumes)
            continue
        with pytest.raises(ConfigError, match=rf"run.output_dir: the disk of {tmp_path} has .* MB of free space, but"):
            check_room(tmp_path / "runs" / "x", method, resumes=resumes)


def test_a_limit_of_files_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1000, 1000))
    with pytest.raises(ConfigError, match=r"run.output_dir: a file may have at most 0.00 MB here \(ulimit -f\)"):
        check_room(tmp_path, factories.method(KD), resumes=True)


def test_a_disk_that_is_full_later_is_one_line() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/runs/x/metrics.csv")
    known = known_error(full)
    assert isinstance(known, RunError)
    assert str(known).startswith("/runs/x/metrics.csv cannot be written (No space left on device); free some space")
    assert known_error(OSError(errno.EPERM, "no")) is None
