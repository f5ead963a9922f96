"""A run that is resumed notices that its teacher, its images or its classes have changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import factories
from PIL import Image

from kd_lightning.cli import main
from kd_lightning.data import ImageFolder
from kd_lightning.errors import ConfigError
from kd_lightning.methods import KD
from kd_lightning.runs.inputs import check_inputs, describe


def images(folder: Path) -> Path:
    for number in range(40):
        file = folder / ("train", "test")[number // 30] / ("cat", "dog")[number % 2] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 9, 9)).save(file)
    return folder


def described(folder: Path, *, memory_limit: float = 4.0, shift: float = 0.0) -> dict[str, Any]:
    teacher = factories.with_weights(folder.parent, "cifar_resnet8", 2)
    teacher.model.fc.bias.data.fill_(shift)
    for parameter in teacher.model.parameters():
        parameter.data.fill_(shift)
    data = ImageFolder(path=str(folder), size=8, batch_size=4, val_split=6, memory_limit=memory_limit)
    data.setup("fit")
    method = KD(student=factories.student(2), teacher=teacher)
    return json.loads(json.dumps(describe(method, data)))


def _add(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "train/cat/99.png")


def _replace(folder: Path) -> None:
    for file in (folder / "train").rglob("*.png"):
        Image.effect_noise((8, 8), 90).convert("RGB").save(file)


def _rename(folder: Path) -> None:
    for split in ("train", "test"):
        (folder / split / "dog").rename(folder / split / "fox")


def _swap(folder: Path) -> None:
    (folder / "train/cat/00.png").rename(folder / "train/cat/01b.png")


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (_add, "the number of train images (24 before, 25 now)"),
    (lambda folder: (folder / "train/cat/00.png").unlink(), "the number of train images (24 before, 23 now)"),
    (_replace, "the file sizes of the train images"),
    (_rename, "the classes (dog is now fox)"),
    (_swap, "the file names of the "),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
@pytest.mark.parametrize("limit", [4.0, 0.0])
def test_changed_images_are_an_error(change, words: str, limit: float, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = images(tmp_path / "images")
    before = described(folder, memory_limit=limit)
    check_inputs(before, described(folder, memory_limit=limit), resumes=True, allowed=False)
    change(folder)
    now = described(folder, memory_limit=limit)
    with pytest.raises(ConfigError) as raised:
        check_inputs(before, now, resumes=True, allowed=False)
    assert words in str(raised.value)
    assert "protocol.allow_changed_inputs" in str(raised.value)
    for resumes, allowed in ((True, True), (False, False)):
        with pytest.warns(match="ckpt_path: the inputs differ from those of the checkpoint: "):
            check_inputs(before, now, resumes=resumes, allowed=allowed)


def test_what_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = described(images(tmp_path / "images"))
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "images"
    shutil.move(tmp_path / "images", moved)
    check_inputs(before, described(moved, memory_limit=0.0), resumes=True, allowed=False)
    check_inputs(None, before, resumes=True, allowed=False)  # a checkpoint of an earlier version
    with pytest.raises(ConfigError, match="the teacher has other weights, or another mean, std or size"):
        check_inputs(before, described(moved, shift=1.0), resumes=True, allowed=False)


def test_a_resumed_run_with_another_teacher_is_refused(finished_run: Path, tmp_path: Path, capfd) -> None:
    run = tmp_path / "kd_lightning-digits/kd-s0/r"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("results.json", "wandb"))
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(state | {"state": "failed"}))
    content = torch.load(run / "last.ckpt", weights_only=True)
    assert len(content["inputs"]["classes"]) == 10
    content["inputs"]["teacher"] = "another"
    torch.save(content, run / "last.ckpt")
    args = ["fit", f"--config={run / 'config.yaml'}", f"--run.output_dir={tmp_path}", "--ckpt_path=last"]
    args += ["--run.wandb=off", "--protocol.test=false"]
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2
    error = capfd.readouterr().err
    assert "error: ckpt_path: the inputs of the run have changed since it was saved: the teacher has other w" in error
    assert json.loads((run / "state.json").read_text())["state"] == "failed"
    main([*args, "--protocol.allow_changed_inputs=true"])
    assert json.loads((run / "state.json").read_text())["state"] == "finished"
