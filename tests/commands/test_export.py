"""export through the command line: files, parity, what they say of themselves, refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from helpers import processes
from helpers.exported_runs import PIXELS, finished, refusal
from PIL import Image
from safetensors import safe_open

from kd_lightning.cli import main
from kd_lightning.commands.export import command
from kd_lightning.commands.export.atomic_path import atomic_path
from kd_lightning.commands.export.provenance import _plain
from kd_lightning.models import Network

QUICK = ["--images=40", "--batch_sizes=[1]", "--repeats=1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def made(run: Path) -> Path:
    """All formats that need no further package."""
    main(["export", "--ckpt_path", str(run), "--format", "safetensors", "timm", "torch_export", *QUICK])
    return run / "export"


def test_each_file_gives_the_logits_of_the_selected_checkpoint(run: Path, made: Path) -> None:
    theirs = Network("cifar_resnet8", checkpoint=str(run / "best.ckpt"), model_kwargs={"channels": [4, 4, 8, 16]})
    expected = theirs.eval()(PIXELS)
    kwargs = {"model_kwargs": {"channels": [4, 4, 8, 16]}}
    ours = Network("cifar_resnet8", checkpoint=str(made / "student.safetensors"), **kwargs).eval()
    assert torch.equal(ours(PIXELS), expected)
    assert ours.class_names == [str(digit) for digit in range(10)]
    graph = torch.export.load(made / "student.pt2").module()
    for count in (1, 2, 5):
        torch.testing.assert_close(graph(PIXELS[:count]), expected[:count], rtol=0, atol=1e-5)
    model = timm.create_model(f"local-dir:{made / 'timm'}", pretrained=True).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(model((PIXELS / 255 - mean) / std), expected, rtol=0, atol=1e-5)


def test_files_say_where_they_come_from_and_name_no_place(run: Path, made: Path) -> None:
    extra = {"kd_lightning.json": ""}
    torch.export.load(made / "student.pt2", extra_files=extra)
    with safe_open(made / "student.safetensors", framework="pt") as file:
        metadata = file.metadata()
    config = json.loads((made / "timm/config.json").read_text())
    for facts in (json.loads(extra["kd_lightning.json"]), json.loads(metadata["kd_lightning"]), config["kd_lightning"]):
        assert facts["class_names"] == [str(digit) for digit in range(10)]
        assert facts["teacher"] == "cifar_resnet20.digits"
        assert facts["metrics"]["test/acc"] > 0
        assert facts["seeds"] == {"seed": 0, "split_seed": 0}
        assert facts["config"]["model"]["init_args"]["teacher"]["checkpoint"] == "gone.safetensors"
        assert facts["parity"]["images"] == 40
        assert {1, 3, 7} <= {*facts["parity"]["batch_sizes"]}
    home = str(run.parents[2]).encode()
    source = str(Path(command.__file__).parents[3]).encode()
    for file in (path for path in made.rglob("*") if path.is_file()):
        assert home not in file.read_bytes()
        assert source not in file.read_bytes()  # torch.export's lines of code
    assert not [path for path in made.iterdir() if path.name.startswith(".")]


def test_paths_and_secrets_are_left_out() -> None:
    given = {
        "path": "/home/me/photos",
        "checkpoint": "${KD_SHARED}/weights/a.pth",
        "folder": "sub/runs",
        "name": "hf_hub:owner/model",
        "student": {"name": "local-dir:/home/me/net", "hub_token": "hf_x"},
        "url": "https://me:password@host/file.tar",
        "class_path": "kd_lightning.methods.KD",
    }
    assert _plain(given) == {
        "path": "photos",
        "checkpoint": "a.pth",
        "folder": "runs",
        "name": "hf_hub:owner/model",
        "student": {"name": "net"},
        "url": "file.tar",
        "class_path": "kd_lightning.methods.KD",
    }


def code_of(made: Path) -> str:
    """The lines of Python in the card, with an image before them; they print the shape of what they compute."""
    code = (made / "timm/README.md").read_text().split("```python\n")[1].split("```")[0]
    code = code.replace("PATH", str(made / "timm"))
    return "from PIL import Image\nimage = Image.new('RGB', (8, 8))\n" + code + "print(tuple(out.shape))"


def forget_this_package() -> None:
    """Remove this package's modules and its networks from timm, as in a process that has not imported it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "kd_lightning"]:
        del sys.modules[name]
    for name in timm.list_models("cifar_*"):
        del timm.models._registry._model_entrypoints[name]
    assert not timm.is_model("cifar_resnet8")


def test_the_card_loads_it_and_says_what_it_is(made: Path, tmp_path: Path) -> None:
    """The forked process has torch and timm already: importing them would take ten times as long as the rest."""

    def load() -> None:
        forget_this_package()
        exec(code_of(made), {})

    assert processes.run(load, tmp_path / "printed") == 0, (tmp_path / "printed").read_text()
    assert "(1, 10)" in (tmp_path / "printed").read_text()
    card = (made / "timm/README.md").read_text()
    assert "import kd_lightning" in card
    assert "| accuracy on test images |" in card
    assert "# license: to be chosen" in card
    assert "Not measured: other sources" in card


@pytest.mark.e2e
def test_the_card_loads_it_in_a_new_process(made: Path) -> None:
    command = [sys.executable, "-c", code_of(made)]
    printed = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert "(1, 10)" in printed.stdout, printed.stderr


def test_a_file_that_says_something_else_is_not_left(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = command.FORMATS["safetensors"]
    right = kind.read
    monkeypatch.setattr(kind, "read", lambda *args: lambda images: (1.01 * right(*args)(images)[0],))
    args = ["--ckpt_path", str(run), "--format=safetensors", f"--path={tmp_path / 'out'}", *QUICK]
    line = refusal(args, capfd, status=1)
    assert "differ from the outputs of PyTorch" in line
    assert not [*(tmp_path / "out").iterdir()]
    monkeypatch.setattr(kind, "read", lambda *args: lambda images: (float("nan") * right(*args)(images)[0],))
    assert "nan" in refusal(args, capfd, status=1)


def test_a_full_disk_leaves_what_was_there(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ["--ckpt_path", str(run), "--format=timm", f"--path={tmp_path}", *QUICK]
    main(["export", *args])
    before = (tmp_path / "timm/config.json").read_bytes()

    def full(*given: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kd_lightning.commands.export.timm_folder.card", full)
    line = refusal([*args, "--overwrite"], capfd, status=1)
    assert "timm: the file cannot be written" in line
    assert "No space left" in line
    assert (tmp_path / "timm/config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["timm"]
    monkeypatch.undo()
    main(["export", *args, "--overwrite"])
    assert {path.name for path in (tmp_path / "timm").iterdir()} == {"model.safetensors", "config.json", "README.md"}


def test_refusals(run: Path, made: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    there, out = ["--ckpt_path", str(run)], ["--path", str(tmp_path / "o")]
    assert "format is required" in refusal([*there, *out], capfd)
    assert "format: 'onx' is unknown; nearest: onnx" in refusal([*there, *out, "--format=onx"], capfd)
    assert "ckpt_path is required" in refusal(["--format=timm"], capfd)
    assert "student.safetensors exists already" in refusal([*there, "--format=safetensors"], capfd)
    assert "nearest: best.ckpt" in refusal(["--ckpt_path", str(run / "best.ckp"), "--format=timm"], capfd)
    assert "results.json is not a checkpoint" in refusal(
        ["--ckpt_path", str(run / "results.json"), "--format=timm"], capfd
    )
    above = refusal(["--ckpt_path", str(run.parent), "--format=timm"], capfd)
    assert f"runs below it: {run.name}" in above
    timm_only = [*there, *out, "--format=timm"]
    assert "images: 0 is not above 0" in refusal([*timm_only, "--images=0"], capfd)
    assert "tolerance: -1.0 is not a finite number of 0 or more" in refusal([*timm_only, "--tolerance=-1"], capfd)
    assert "int8: the int8 file is created from the ONNX file" in refusal([*timm_only, "--int8"], capfd)
    assert "push_to_hub: foo is not OWNER/NAME" in refusal([*timm_only, "--push_to_hub=foo"], capfd)
    assert "push_to_hub: it uploads the timm folder" in refusal(
        [*there, "--format=torch_export", "--push_to_hub=a/b"], capfd
    )
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1)}}, foreign)
    assert "config.yaml is missing" in refusal(["--ckpt_path", str(foreign), "--format=timm"], capfd)
    assert not (tmp_path / "o").exists()


def test_a_run_that_is_not_finished_says_so(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    there = finished(tmp_path, unfinished=True)
    main(["export", "--ckpt_path", str(there), "--format", "timm", *QUICK])
    assert "unfinished: " in capfd.readouterr().out
    assert "have not been evaluated" in (there / "export/timm/README.md").read_text()


def test_a_run_whose_images_are_gone(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    there = finished(tmp_path / "runs")
    photos = tmp_path / "photos"
    for label in range(10):
        (photos / str(label)).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8), (25 * label, 9 * number, 0)).save(photos / f"{label}/{number}.png")
    config = yaml.safe_load((there / "config.yaml").read_text())
    arguments = {"path": str(tmp_path / "gone"), "size": 8}
    config["data"] = {"class_path": "kd_lightning.data.ImageFolder", "init_args": arguments}
    (there / "config.yaml").write_text(yaml.safe_dump(config))
    args = [str(there), "--format=safetensors", "--batch_sizes=[]"]
    line = refusal(args, capfd)
    assert "gone does not exist" in line
    assert line.endswith(
        "give --data_path PATH; if they are missing, --random_pixels compares the files on random pixels"
    )
    main(["export", *args, f"--data_path={photos}", f"--path={tmp_path / 'a'}"])
    captured = capfd.readouterr()
    assert "compared on 10 test images of photos" in captured.out
    main(["export", *args, "--random_pixels", f"--path={tmp_path / 'b'}"])
    printed = capfd.readouterr().out
    assert "random_pixels: each file is compared on random pixels instead of images of the run" in printed
    assert "images of random pixels" in printed
    int8 = refusal([*args, "--format+=onnx", "--int8", "--random_pixels"], capfd)
    assert "int8: it needs images, so it cannot be combined with random_pixels" in int8
    assert "data_path: it needs images" in refusal([*args, "--random_pixels", f"--data_path={photos}"], capfd)


def test_the_line_says_which_checkpoint_is_exported(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    main(["export", str(run), "--format=safetensors", f"--path={tmp_path}", *QUICK])
    assert f"ckpt_path: {run / 'best.ckpt'} is used, the selected checkpoint of the run" in caplog.text


def test_other_weights_than_the_evaluated_ones_claim_no_metrics(run: Path, tmp_path: Path) -> None:
    args = ["--ckpt_path", str(run / "last.ckpt"), "--format=safetensors", f"--path={tmp_path}", *QUICK]
    main(["export", *args, "--tolerance=0"])
    with safe_open(tmp_path / "student.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["kd_lightning"])
    assert facts["metrics"] == {}
    assert facts["checkpoint"] == "last.ckpt"


def test_a_folder_that_cannot_take_its_name_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, real = tmp_path / "timm", os.replace
    target.mkdir()
    (target / "old").touch()

    def no_move(source: Path, there: Path) -> None:
        if Path(source).name == "timm" and (Path(source) / "new").exists():
            raise OSError(5, "broken")
        real(source, there)

    monkeypatch.setattr(os, "replace", no_move)

    def write() -> None:
        with atomic_path(target) as made:
            made.mkdir()
            (made / "new").touch()

    with pytest.raises(OSError, match="broken"):
        write()
    assert [path.name for path in tmp_path.rglob("*")] == ["timm", "old"]
