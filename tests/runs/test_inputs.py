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
from kd_lightning.methods import KD, ResidualKD
from kd_lightning.models import Network
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


def compare(before: Any, now: dict[str, Any], *, allowed: bool = False) -> None:
    check_inputs({"inputs": before}, now, Path("run/last.ckpt"), allowed=allowed)


@pytest.mark.parametrize(("change", "words"), CHANGES)
@pytest.mark.parametrize("limit", [4.0, 0.0])
def test_changed_images_are_an_error(change, words: str, limit: float, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = images(tmp_path / "images")
    before = described(folder, memory_limit=limit)
    compare(before, described(folder, memory_limit=limit))
    change(folder)
    now = described(folder, memory_limit=limit)
    with pytest.raises(ConfigError) as raised:
        compare(before, now)
    assert words in str(raised.value)
    assert "protocol.allow_changed_inputs" in str(raised.value)
    with pytest.warns(match="ckpt_path: the inputs differ from those of the checkpoint: "):
        compare(before, now, allowed=True)


def test_what_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = described(images(tmp_path / "images"))
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "images"
    shutil.move(tmp_path / "images", moved)
    compare(before, described(moved, memory_limit=0.0))
    compare({key: value for key, value in before.items() if key != "test"}, before)  # protocol.test was false
    with pytest.warns(match=r"ckpt_path: run/last\.ckpt has no description of its inputs"):
        check_inputs({}, before, Path("run/last.ckpt"), allowed=False)  # a checkpoint of an earlier version
    with pytest.raises(ConfigError, match="the teacher has other weights, or another mean, std or size"):
        compare(before, described(moved, shift=1.0))
    with pytest.raises(ConfigError, match="there are now validation images"):
        compare({key: value for key, value in before.items() if key != "val"}, before)


def test_other_starting_weights_of_an_assistant_are_an_error(tmp_path: Path) -> None:
    def of_assistant(assistant: Network | None) -> dict[str, Any]:
        data = factories.digits()
        data.setup("fit")
        return json.loads(json.dumps(describe(factories.method(ResidualKD, assistant=assistant), data)))

    random = [of_assistant(None) for _ in range(2)]
    compare(*random)
    assert "further" not in random[0]
    channels = {"channels": [4, 4, 8, 16]}
    one, other = (of_assistant(factories.with_weights(tmp_path, "cifar_resnet8", **channels)) for _ in range(2))
    with pytest.raises(ConfigError, match="the assistant has other starting weights"):
        compare(one, other)
    with pytest.raises(ConfigError, match="the assistant has other starting weights"):
        compare(random[0], one)
    compare(one, one)
    with pytest.raises(ConfigError, match=r"its entry inputs.further has another form"):
        compare(one | {"further": 3}, one)


def _without(described: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in described.items() if key not in names}


OTHER_FORMS: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda d: "x", "inputs has another form"),
    (lambda d: None, "inputs has another form"),
    (lambda d: [d], "inputs has another form"),
    (lambda d: {}, "inputs.classes is missing"),
    (lambda d: d | {"classes": "cat"}, "inputs.classes has another form"),
    (lambda d: d | {"classes": [1, 2]}, "inputs.classes has another form"),
    (lambda d: d | {"teacher": 5}, "inputs.teacher has another form"),
    (lambda d: _without(d, "train"), "inputs.train is missing"),
    (lambda d: d | {"train": "x"}, "inputs.train has another form"),
    (lambda d: d | {"test": None}, "inputs.test has another form"),
    (lambda d: d | {"train": _without(d["train"], "labels")}, "inputs.train.labels is missing"),
    (lambda d: d | {"train": _without(d["train"], "names", "sizes", "pixels")}, "inputs.train.names is missing"),
    (lambda d: d | {"train": d["train"] | {"images": "24"}}, "inputs.train.images has another form"),
    (lambda d: d | {"train": d["train"] | {"sizes": None}}, "inputs.train.sizes has another form"),
]


def test_a_description_of_another_form_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = described(images(tmp_path / "images"))
    for change, words in OTHER_FORMS:
        for allowed in (True, False):
            with pytest.raises(ConfigError, match=r"^ckpt_path: [^\n]*$") as raised:
                compare(change(before), before, allowed=allowed)
            assert f"its entry {words}" in str(raised.value)


def test_a_run_that_continues_with_another_teacher_is_refused(finished_run: Path, tmp_path: Path, capfd) -> None:
    """Also a new run that begins from the checkpoint, which is how `repeat` continues a run."""
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
    new = [*args[:3], f"--ckpt_path={run / 'last.ckpt'}", "--run.id=r-r1", "--trainer.max_epochs=4", *args[4:]]
    for each in (args, new):
        with pytest.raises(SystemExit) as stopped:
            main(each)
        assert stopped.value.code == 2
        error = capfd.readouterr().err
        assert "error: ckpt_path: the inputs of the run have changed since it was saved: the teacher has other" in error
    assert not run.with_name("r-r1").exists()
    assert json.loads((run / "state.json").read_text())["state"] == "failed"
    main([*args, "--protocol.allow_changed_inputs=true"])
    assert json.loads((run / "state.json").read_text())["state"] == "finished"
