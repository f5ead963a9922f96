"""Files of runs carry the schema of this version; others raise one line that names the file."""

from pathlib import Path

import pytest
import torch

from kd_lightning.cli import main
from kd_lightning.errors import ConfigError
from kd_lightning.io.schema import SCHEMA, check_schema, schema_problem
from kd_lightning.reports.config import read_config
from kd_lightning.runs.checkpoint_io import AtomicCheckpointIO, check_checkpoint
from kd_lightning.runs.loading import build
from kd_lightning.runs.results import read
from kd_lightning.runs.resume import check_config_matches


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "has no schema, but this version of kd_lightning reads 3; an older version"),
        ({"schema": 1}, "has schema 1, but this version of kd_lightning reads 3; an older version"),
        ({"schema": 4}, "has schema 4, but this version of kd_lightning reads 3; a newer version"),
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
    assert SCHEMA == 3
    assert schema_problem({"schema": SCHEMA}) == ""


def test_checkpoints_carry_it(tmp_path: Path) -> None:
    path, files = tmp_path / "last.ckpt", AtomicCheckpointIO()
    content = {"state_dict": {"a": torch.zeros(1)}, "pytorch-lightning_version": "2.6", "epoch": 0, "global_step": 1}
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
    path.write_text('{"schema": 3, "run": {}}')
    assert read(path) is None


def test_configs_of_another_version(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path, content = tmp_path / "config.yaml", "data: {class_path: Digits}\nmodel: {class_path: KD}\n"
    path.write_text(content)
    (tmp_path / "last.ckpt").touch()
    assert "config.yaml cannot be read (has no schema" in read_config(path)[1]
    with pytest.raises(ConfigError, match=r"ckpt_path: .*config.yaml has no schema, .*older version"):
        check_config_matches(tmp_path / "last.ckpt", {"schema": SCHEMA})
    with pytest.raises(ConfigError, match=r"run: .*config.yaml has no schema, .*older version"):
        build({"model": {"class_path": "KD"}, "data": {"class_path": "Digits"}}, path)
    path.write_text(f"schema: 1\n{content}")
    with pytest.raises(SystemExit) as stopped:
        main(["fit", f"--config={path}", "--model.teacher.name=cifar_resnet8", "--model.student.name=cifar_resnet8"])
    assert stopped.value.code == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(
        f"error: config: {path} has schema 1, but this version of kd_lightning reads 3; an older version"
    )


def test_print_config_carries_it(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--data=Digits", "--model=Supervised", "--model.student.name=cifar_resnet8", "--print_config"])
    assert f"\nschema: {SCHEMA}\n" in capsys.readouterr().out
