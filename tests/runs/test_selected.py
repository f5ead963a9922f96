"""The checkpoint that a run's folder means, and the arguments that name a run."""

import json
import os
from pathlib import Path

import pytest
import yaml

from kd_lightning.errors import ConfigError
from kd_lightning.runs.arguments import with_run
from kd_lightning.runs.selected import is_run, selected


def run(folder: Path, *files: str, evaluated: str | None = None, select: str | None = None) -> Path:
    """Write a folder with the files of a run, which are empty except for config.yaml and results.json."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"protocol": {"select": select}, "ckpt_path": "start.ckpt"}))
    for name in files:
        (folder / name).touch()
    if evaluated:
        (folder / "results.json").write_text(json.dumps({"protocol": {"checkpoint": evaluated}}))
    return folder


@pytest.mark.parametrize(
    ("files", "evaluated", "select", "expected", "reason"),
    [
        (["best.ckpt", "last.ckpt"], "best.ckpt", None, "best.ckpt", "the selected checkpoint of the run"),
        (["best.ckpt", "last.ckpt"], "last.ckpt", None, "last.ckpt", "the selected checkpoint of the run"),
        (["best.ckpt", "last.ckpt"], None, None, "best.ckpt", "has no results.json"),
        (["last.ckpt"], None, None, "last.ckpt", "has no results.json"),
        (["best.ckpt", "last.ckpt"], None, "last", "last.ckpt", "has no results.json"),
        (["last.ckpt"], "best.ckpt", None, "last.ckpt", "the selected checkpoint best.ckpt is missing"),
        (["best.ckpt"], "../other/best.ckpt", None, "best.ckpt", "has no results.json"),
    ],
)
def test_the_checkpoint_of_a_folder(
    tmp_path: Path, files: list[str], evaluated: str | None, select: str | None, expected: str, reason: str
) -> None:
    folder = run(tmp_path / "run", *files, "student.safetensors", evaluated=evaluated, select=select)
    for path in (folder, folder / "config.yaml"):
        found = selected(path, student=True)
        assert found.file == folder / expected
        assert found.line() == f"ckpt_path: {folder / expected} is used, {found.reason}"
        assert reason in found.reason
        assert found.instead == (reason != "the selected checkpoint of the run")
    assert selected(folder / "last.ckpt" if "last.ckpt" in files else folder / "best.ckpt").line() == ""


def test_only_a_student_is_left(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "student.safetensors", evaluated="best.ckpt")
    assert selected(folder, student=True).file == folder / "student.safetensors"
    with pytest.raises(ConfigError, match=r"run: .*run contains no checkpoint \(best.ckpt or last.ckpt\)"):
        selected(folder)


def test_what_is_no_run_is_answered_with_the_newest_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("old", "newer", "newest", "oldest")):
        folder = run(tmp_path / "all/p" / name / "id", "last.ckpt")
        os.utime(folder / "config.yaml", (1000 + number % 3, 1000 + number % 3))
    run(tmp_path / "all/p/empty/id")
    with pytest.raises(ConfigError, match="; runs below it: p/newest/id, p/newer/id, p/old"):
        selected(tmp_path / "all")
    with pytest.raises(ConfigError, match=r"all/nowhere does not exist; newest runs: .*all/p/newest/id, "):
        selected(tmp_path / "all/nowhere")
    with pytest.raises(ConfigError, match=r"last.ckp does not exist; nearest: last.ckpt"):
        selected(tmp_path / "all/p/old/id/last.ckp")
    (tmp_path / "all").rename(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    for word in ("best", "nowhere"):
        with pytest.raises(ConfigError) as caught:
            selected(word, "ckpt_path")
        assert str(caught.value).startswith(f"ckpt_path: {word} does not exist; newest runs: runs/p/newest/id, runs/p/")
        assert "\n" not in str(caught.value)


def test_a_folder_with_any_config_is_no_run(tmp_path: Path) -> None:
    assert not is_run(run(tmp_path / "a"))
    assert is_run(run(tmp_path / "b", "last.ckpt"))


def test_arguments_that_name_a_run(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "best.ckpt", "last.ckpt", evaluated="last.ckpt")
    config, last = f"--config={folder / 'config.yaml'}", f"--ckpt_path={folder / 'last.ckpt'}"
    for path in (folder, folder / "config.yaml", folder / "last.ckpt"):
        assert with_run(["test", str(path)]).args == ["test", config, last]
        assert with_run(["validate", "--ckpt_path", str(path)]).args == ["validate", config, last]
    given = ["--config", str(folder / "config.yaml")]
    assert with_run(["test", *given]).args == ["test", *given, last]
    assert with_run(["test", config, "--config=more.yaml"]).args == ["test", config, "--config=more.yaml", last]
    best = f"--ckpt_path={folder / 'best.ckpt'}"
    assert with_run(["test", str(folder), best]).args == ["test", config, best]
    assert with_run(["test", "--model=KD", last]).args == ["test", "--model=KD", last]


def test_arguments_that_ask_for_other_weights(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "last.ckpt", evaluated="last.ckpt")
    config = f"--config={folder / 'config.yaml'}"
    assert with_run(["test", config, "--ckpt_path=null"]).args == ["test", config, "--ckpt_path=null"]
    other = ["test", config, "--model.student.checkpoint=x.safetensors"]
    assert with_run(other).args == other
    (tmp_path / "config.yaml").write_text("a: 1")
    foreign = ["test", f"--config={tmp_path / 'config.yaml'}"]
    assert with_run(foreign).args == foreign


def test_images_of_any_folder(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "last.ckpt", "student.safetensors", evaluated="last.ckpt")
    config, last = f"--config={folder / 'config.yaml'}", f"--ckpt_path={folder / 'last.ckpt'}"
    one = ["--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto"]
    words = ["--data.path", "a.jpg", "b.jpg", "--predictions.top_k", "2", "--data.path=c"]
    args, images = with_run(["predict", str(folder), *words])
    assert images == ["a.jpg", "b.jpg", "c"]
    assert args == ["predict", config, "--predictions.top_k", "2", *one, last]
    args, images = with_run(["embed", str(folder), "--data.path", "a", "--trainer.devices=2"])
    assert args[:3] == ["predict", config, "--trainer.devices=2"]
    assert "--predictions.embeddings=true" in args
    assert "--trainer.devices=1" not in args
    for extra in ("--data.predict_split=val", "--data=ImageFolder"):
        args, images = with_run(["predict", str(folder), "--data.path=a", extra])
        assert images is None
        assert "--data.path=a" in args
    args, _ = with_run(["predict", str(folder / "student.safetensors")])
    assert args[1] == config
    assert args[-1] == f"--ckpt_path={folder / 'student.safetensors'}"
