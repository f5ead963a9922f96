"""Files of runs carry the schema of this version; others raise one line that names the file."""

from pathlib import Path

import pytest
import torch

from kd_lightning.errors import ConfigError
from kd_lightning.io.schema import SCHEMA, check_schema, schema_problem
from kd_lightning.runs.checkpoint_io import AtomicCheckpointIO, check_checkpoint
from kd_lightning.runs.results import read


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "has no schema, this version reads 2: it was written by an older version"),
        ({"schema": 1}, "has schema 1, this version reads 2: it was written by an older version"),
        ({"schema": 3}, "has schema 3, this version reads 2: it was written by a newer version"),
        ({"schema": "2"}, "has schema '2'"),
        ({"schema": True}, "has schema True"),
        ({"schema": ["x"] * 99}, "has schema ['x', 'x', 'x', 'x',"),
    ],
)
def test_other_versions_are_refused(content: dict, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_schema(content, Path("runs/x/config.yaml"), "run")
    assert str(raised.value).startswith("run: runs/x/config.yaml has ")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_this_version_is_read() -> None:
    assert SCHEMA == 2
    assert schema_problem({"schema": SCHEMA}) == ""


def test_checkpoints_carry_it(tmp_path: Path) -> None:
    path, files = tmp_path / "last.ckpt", AtomicCheckpointIO()
    content = {"state_dict": {"a": torch.zeros(1)}, "pytorch-lightning_version": "2.6"}
    files.save_checkpoint(content, path)
    assert files.load_checkpoint(path)["schema"] == SCHEMA
    assert check_checkpoint(str(path)) == str(path)
    for old in (content, {**content, "schema": 1}):
        torch.save(old, path)
        with pytest.raises(ConfigError, match=r"ckpt_path: .*last.ckpt has .*an older version"):
            files.load_checkpoint(path)
        with pytest.raises(ConfigError, match=r"ckpt_path: .*last.ckpt has .*an older version"):
            check_checkpoint(str(path))


def test_results_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert read(path) is None
    path.write_text('{"schema": 1, "run": {}}')
    with pytest.raises(ConfigError, match=r"results: .*results.json has schema 1"):
        read(path)
    path.write_text('{"schema": 2, "run": {}}')
    assert read(path) is None
