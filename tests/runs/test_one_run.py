"""Arguments that name two runs, a folder of images or a word instead of a run."""

from pathlib import Path

import pytest
from PIL import Image
from test_selected import run

from kd_lightning.config.unknown_fields import unknown_field
from kd_lightning.errors import ConfigError
from kd_lightning.runs.arguments import with_run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two runs, a folder of images and another file."""
    for name in ("first", "second"):
        run(tmp_path / "runs" / name, "best.ckpt", "last.ckpt", evaluated="best.ckpt")
    (tmp_path / "photos/bee").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "photos/bee/1.png")
    (tmp_path / "b.sh").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("predict runs/first --ckpt_path runs/second", "ckpt_path: two runs are given, because runs/second is not in"),
        (
            "test runs/first --ckpt_path=runs/second/last.ckpt",
            "two runs are given, because runs/second/last.ckpt is not",
        ),
        (
            "test runs/first/best.ckpt --ckpt_path=runs/second",
            "two runs are given, because runs/second is not in runs/f",
        ),
        (
            "predict runs/first runs/second",
            "run: two runs are given, runs/first and runs/second; give only one of them",
        ),
        (
            "predict photos",
            "run: photos is not a run but images; the first argument is the folder of a run, and images",
        ),
        ("embed photos/bee/1.png", "images are given as --data.path photos/bee/1.png"),
        (
            "predict runs/first --ckpt_path best",
            "'best' is not the path of a checkpoint; omit it, because the selected",
        ),
        ("predict runs/first --ckpt_path hpc", "or give --ckpt_path runs/first/best.ckpt or runs/first/last.ckpt"),
        (
            "test --ckpt_path last",
            "(`last` is a valid word only for fit, which resumes a run); give the folder of a run,",
        ),
    ],
)
def test_one_run_is_given(args: str, words: str, here: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        with_run(args.split())
    assert words in str(caught.value)
    assert "b.sh" not in str(caught.value)


def test_a_checkpoint_in_the_folder_of_the_run_is_used(here: Path) -> None:
    args, _ = with_run(["test", "runs/first", "--ckpt_path", str(here / "runs/first/last.ckpt")])
    assert args[-1] == f"--ckpt_path={here / 'runs/first/last.ckpt'}"


PREDICT = {"config", "ckpt_path", "run.id", "data", "data.path", "predictions.output", "predictions.path"}


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ("photos", PREDICT, "photos is given without the name of a field; give images as --data.path photos"),
        ("b.sh photos", PREDICT, "; give images as --data.path b.sh photos"),
        ("gone", PREDICT, "; choices: --ckpt_path"),
        (
            "runs/first",
            PREDICT - {"predictions.output"},
            "--config runs/first/config.yaml --run.id first --ckpt_path last",
        ),
        ("runs/first", PREDICT - {"predictions.output"}, "; to evaluate it, give test runs/first"),
        ("photos", PREDICT - {"predictions.output"}, "; choices: --ckpt_path"),
    ],
)
def test_a_path_without_a_field(given: str, options: set[str], words: str, here: Path) -> None:
    assert words in unknown_field(f"unrecognized arguments: {given}", "", options, "")


def test_path_means_the_images() -> None:
    line = unknown_field("unrecognized arguments: --path", "", PREDICT, "")
    assert line == "path is not a field; use --data.path"
