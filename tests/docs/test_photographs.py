"""docs/photographs.md: every command in its order on real photographs, and its program agrees with `predict`."""

import json
import re
import shlex
import shutil
import tarfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers.pages import ROOT, blocks
from PIL import ExifTags, Image
from safetensors import safe_open

from kd_lightning.cli import main

PAGE = ROOT / "docs/photographs.md"
BLOCKS = [*blocks([PAGE])]
CLASSES, PER_CLASS = 6, 30
SUBSTITUTES = {
    "tf_efficientnet_lite0, pretrained: true": "tf_efficientnet_lite0, checkpoint: lite0.safetensors",  # no download
    "--data.size 224": "--data.size 64",
    "resnet18": "resnet10t",
}
EPOCHS = {"probe_epochs": 1, "max_epochs": 2}
ADDED = {
    "fit": "--run.wandb off --trainer.accelerator cpu --trainer.enable_progress_bar false --data.num_workers 0",
    "test": "--trainer.accelerator cpu --trainer.enable_progress_bar false",
    "predict": "--trainer.accelerator cpu --trainer.enable_progress_bar false",
    "export": "--images 20 --batch_sizes [1] --repeats 1",
}


@pytest.fixture(scope="module")
def workshop(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run in: real photographs in the home folder, and the teacher's weights instead of a download."""
    folder = tmp_path_factory.mktemp("photographs")
    counts: Counter[str] = Counter()
    with tarfile.open(shared / "data/tiny-imagenet-200-subset.tar") as archive:
        for member in archive:
            _, split, name, *_ = [*member.name.split("/"), "", ""]
            if split != "train" or not member.isfile() or (name not in counts and len(counts) == CLASSES):
                continue
            place = folder / "home" / ("photos" if counts[name] < PER_CLASS else "new_photos")
            counts[name] += 1
            if place.name == "photos":
                place /= name
            elif counts[name] > PER_CLASS + 1:
                continue
            place.mkdir(parents=True, exist_ok=True)
            (place / Path(member.name).name).write_bytes(archive.extractfile(member).read())
            if min(counts.values()) > PER_CLASS + 1 and len(counts) == CLASSES:
                break
    shutil.copy(shared / "weights/tf_efficientnet_lite0.safetensors", folder / "lite0.safetensors")
    new = folder / "home/new_photos"
    first = min(new.iterdir())
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.open(first).convert("RGB").resize((900, 600)).save(new / "large.jpg", exif=exif)  # decoded at reduced size
    return folder


@pytest.fixture
def at_work(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workshop)
    monkeypatch.setenv("HOME", str(workshop / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(workshop / "cache"))
    return workshop


def adapted(line: str) -> list[str]:
    """Return the arguments of a command of the page, for small images and few epochs."""
    for text, other in SUBSTITUTES.items():
        line = line.replace(text, other)
    for name, epochs in EPOCHS.items():
        line = re.sub(rf"\.{name} \d+", f".{name} {epochs}", line)
    program, args = shlex.split(line)[:3], shlex.split(line)[3:]
    assert program == ["python", "-m", "kd_lightning"]
    args = [arg.replace("~", str(Path.home())) if arg.startswith("~") else arg for arg in args]
    return args + shlex.split(ADDED.get(args[0], ""))


def program(page: Path) -> str:
    return re.search(r"<!-- classify -->\n```python\n(.*?)```", page.read_text(), re.S)[1]


@pytest.mark.e2e
def test_every_command_runs_in_order_on_photographs(at_work: Path, capfd: pytest.CaptureFixture) -> None:
    if find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is missing (the extra export)")
    commands = [line for block in BLOCKS for line in block.commands]
    assert [line.split()[3] for line in commands] == "show-batch fit fit fit fit compare test predict export".split()
    for line in commands:
        main(adapted(line))
    printed = capfd.readouterr()
    assert (at_work / "show.png").exists()
    assert "36 test images (drawn from the folders in" in " ".join(printed.out.replace("\u2502", " ").split())
    for name in ("teacher", "fine-tuned", "distilled"):
        results = json.loads((at_work / f"runs/photos/{name}/first/results.json").read_text())
        assert results["metrics"]["test/acc"] > (0.25 if name == "teacher" else 0)  # chance is 0.17
        assert name in printed.out  # in the table of compare
    _the_program_agrees_with_predict(at_work, capfd)


def _the_program_agrees_with_predict(workshop: Path, capfd: pytest.CaptureFixture) -> None:
    """The logits agree to 1e-3, and the class is the same, also for a large photograph that is turned."""
    (file,) = (workshop / "runs/photos/distilled/first").glob("predictions/*/predictions.safetensors")
    with safe_open(file, "np") as opened:
        expected, facts = opened.get_tensor("logits"), opened.metadata()
    paths, names = json.loads(facts["paths"]), json.loads(facts["class_names"])
    assert len(paths) == CLASSES + 1
    assert any(path.endswith("large.jpg") for path in paths)
    for page in (PAGE, ROOT / "docs/export.md"):
        code = program(page)
        assert '"photo.jpg"' in code
        for path, logits in zip(paths, expected, strict=True):
            shutil.copy(path, "photo.jpg")
            shutil.copy("exported/student.onnx", "student.onnx")
            found: dict[str, object] = {}
            exec(code, found)
            np.testing.assert_allclose(found["logits"][0], logits, rtol=0, atol=1e-3)
            assert capfd.readouterr().out.split() == [names[logits.argmax()]]


def test_the_programs_of_both_pages_are_the_same() -> None:
    assert program(PAGE).replace("exported/", "") == program(ROOT / "docs/export.md")


def test_the_substitutes_are_of_use() -> None:
    text = PAGE.read_text()
    assert not [given for given in SUBSTITUTES if given not in text]
    assert all(f".{name} " in text for name in EPOCHS)
