"""A run that begins from a checkpoint reads it twice: once for all checks, and once in Lightning."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_lightning.cli import main
from kd_lightning.io.schema import SCHEMA
from kd_lightning.runs import checkpoint_io
from kd_lightning.runs.checkpoint_io import AtomicCheckpointIO, read_once


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that torch reads, in order."""
    paths, load = [], torch.load

    def counted(path: Any, *args: Any, **kwargs: Any) -> Any:
        paths.append(str(getattr(path, "path", path)))  # Lightning gives an open file
        return load(path, *args, **kwargs)

    monkeypatch.setattr(torch, "load", counted)
    return paths


def unfinished(finished_run: Path, place: Path) -> Path:
    """A copy of a run, as if its process had been killed after the last epoch."""
    run = place / "kd_lightning-digits/kd-s0/r"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("results.json", "wandb"))
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(state | {"state": "failed"}))
    return run


@pytest.mark.parametrize("resumes", [True, False])
def test_the_checkpoint_is_read_twice(resumes: bool, finished_run: Path, tmp_path: Path, reads: list[str]) -> None:
    run = unfinished(finished_run, tmp_path)
    args = [f"--config={run / 'config.yaml'}", f"--run.output_dir={tmp_path}", "--run.wandb=off"]
    args += ["--protocol.test=false"]
    new = [f"--ckpt_path={run / 'last.ckpt'}", "--run.id=r-r1", "--trainer.max_epochs=4"]  # as `repeat` continues it
    main(["fit", *args, *(["--ckpt_path=last"] if resumes else new)])
    assert reads.count(str(run / "last.ckpt")) == 2
    assert not checkpoint_io._READ
    folder = run if resumes else run.with_name("r-r1")
    assert json.loads((folder / "state.json").read_text())["state"] == "finished"


def test_a_file_that_has_changed_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    for step in (1, 22):
        torch.save({"global_step": step, "more": "x" * step}, tmp_path / "a.ckpt")
        assert [read_once(tmp_path / "a.ckpt")["global_step"] for _ in range(2)] == [step] * 2
    assert len(reads) == 2
    assert len(checkpoint_io._READ) == 1
    checkpoint_io.forget()


def test_the_tensors_of_an_optimizer_share_no_memory(tmp_path: Path) -> None:
    """An optimizer changes them in place."""
    row, whole = torch.zeros(1).expand(3), torch.ones(4)
    state = {"state": {0: {"buffer": row}, 1: {"buffer": whole}, 2: {"buffer": whole[:2]}}, "param_groups": []}
    path = tmp_path / "last.ckpt"
    torch.save({"optimizer_states": [state], "schema": SCHEMA, "pytorch-lightning_version": "2.6.0"}, path)
    loaded = AtomicCheckpointIO().load_checkpoint(path)["optimizer_states"][0]["state"]
    for number, expected in ((0, [1.0, 0.0, 0.0]), (1, [2.0, 1.0, 1.0, 1.0]), (2, [2.0, 1.0])):
        loaded[number]["buffer"][0] += 1
        assert loaded[number]["buffer"].tolist() == expected
