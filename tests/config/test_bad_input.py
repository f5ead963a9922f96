"""What bad input gets: one line that names the field, what was given and the nearest choices, before the first step."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.configs import KD, changed
from PIL import Image

from kd_lightning.cli import main
from kd_lightning.models import Network, checkpoints


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture):
    """Runs a config with arguments, asserts that it is refused in one line and leaves nothing, and gives the line."""

    def run(config: dict | str, *args: str, command: str = "fit") -> str:
        path = tmp_path / "config.yaml"
        path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
        with pytest.raises(SystemExit) as stopped:
            main([command, f"--config={path}", f"--run.output_dir={tmp_path / 'runs'}", *args])
        assert stopped.value.code not in (0, None)
        lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert not (tmp_path / "runs").exists()
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("config", "args", "words"),
    [
        (changed(model__class_path="KDD"), [], ["model", "'KDD'", "nearest: KD"]),
        (changed(data__class_path="Digit"), [], ["data", "'Digit'", "Digits"]),
        (
            changed(model__class_path="nowhere.KD"),
            [],
            ["model", "no module nowhere: neither nowhere.py in", "nearest: KD"],
        ),
        (changed(model__init_args__temprature=4), [], ["model.temprature", "KD", "temperature"]),
        (changed(model__init_args__student__nme="x"), [], ["model.student.nme", "Network", "name"]),
        (changed(trainer__max_epoch=4), [], ["trainer.max_epoch", "trainer.max_epochs"]),
        (changed(modell=3), [], ["modell", "model"]),
        (KD, ["--model.temprature=4"], ["model.temprature", "temperature"]),
        (KD, ["--model.student.nam=x"], ["model.student.nam", "name"]),
        (KD, ["--data.batchsize=4"], ["data.batchsize", "Digits", "batch_size"]),
        (KD, ["--trainer.max_epoch=4"], ["trainer.max_epoch", "trainer.max_epochs"]),
        (KD, ["--modle.temperature=4"], ["modle", "model"]),
        (KD, ["--trainer.max_epochs=many"], ["trainer.max_epochs", "many", "int"]),
        (KD, ["--data.batch_size=many"], ["data.batch_size", "many", "int"]),
        (KD, ["--data.batch_size=0"], ["data.batch_size", "0"]),
        (KD, ["--data.batch_size=5000"], ["data.batch_size", "5000", "1293"]),
        (KD, ["--data.val_split=0.999"], ["data.val_split", "0.999"]),
        (KD, ["--data.val_split=0", "--protocol.select=best"], ["protocol.select", "data.val_split", "last"]),
        (KD, ["--protocol.select=first"], ["protocol.select", "first", "choices: best, last"]),
        (KD, ["--model.temperature=0"], ["temperature", "0"]),
        (KD, ["--model.student.name=cifar_resnet21"], ["cifar_resnet21", "cifar_resnet20"]),
        (
            KD,
            ["--model.student.name=resnet18.nonsense", "--model.student.pretrained=true"],
            ["resnet18.nonsense", "nearest: resnet18."],
        ),
        (KD, ["--model.student.model_kwargs={depht: 3}"], ["model_kwargs", "depht"]),
        (KD, ["--model.optimizer=torch.optim.SDG"], ["model.optimizer", "SDG", "SGD"]),
        (KD, ["--model.lr_scheduler=WarmupCosin"], ["model.lr_scheduler", "WarmupCosin", "WarmupCosine"]),
        (
            KD,
            ["--model.lr_scheduler=timm.scheduler.CosineLRScheduler", "--model.lr_scheduler.t_initial=5"],
            ["model.lr_scheduler: timm.scheduler.CosineLRScheduler is not a torch schedule", "choose WarmupCosine"],
        ),
        (
            KD,
            ["--model.lr_scheduler=ReduceLROnPlateau"],
            ["model.lr_scheduler: 2 classes are called ReduceLROnPlateau (", "; choose lightning.pytorch.cli.Reduce"],
        ),
        (
            KD,
            ["--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau"],
            ["model.lr_scheduler", "lightning.pytorch.cli.ReduceLROnPlateau", "monitor"],
        ),
        (KD, ["--trainer.precision=17"], ["trainer.precision", "17", "bf16-mixed"]),
        (KD, ["--trainer.precision=fp16-mixed"], ["trainer.precision", "fp16-mixed", "nearest", "16-mixed"]),
        (
            KD,
            ["--trainer.precision=16-mixed"],
            ["trainer.precision", "16-mixed is not supported on this cpu", "32-true"],
        ),
        (KD, ["--trainer.precision=16"], ["trainer.precision", "16", "choices: 32-true, bf16-mixed"]),
        (KD, ["--trainer.precision=transformer-engine"], ["trainer.precision", "transformer-engine", "cpu"]),
        (KD, ["--guard.nonfinite=go"], ["guard.nonfinite", "go", "choices: skip, stop"]),
        (KD, ["--config=/nowhere/config.yaml"], ["config", "/nowhere/config.yaml"]),
        (KD, ["--ckpt_path=/nowhere/last.ckpt"], ["ckpt_path", "/nowhere/last.ckpt"]),
        (changed(model__init_args__teacher={"name": "cifar_resnet8"}), [], ["teacher", "checkpoint", "pretrained"]),
        (changed(model__init_args__teacher__num_classes=7), [], ["teacher.num_classes", "7"]),
        (
            changed(model__class_path="Distiller"),
            [],
            ["model", "Distiller is abstract", "choices: ", "KD, ", "SP, ", "Supervised"],
        ),
        (KD, ["--model.optimizer.lr=-1"], ["model.optimizer", "-1"]),
        (KD, ["--model.optimizer.lr=abc"], ["model.optimizer.lr", "abc", "float"]),
        (KD, ["--model.lr_scheduler=WarmupMultiStep"], ["model.lr_scheduler.milestones", "required"]),
        (KD, ["--model.student.std=[0, 1, 1]"], ["std", "0"]),
        (KD, ["--model.student.mean=[0.1, 0.2]"], ["model.student.mean", "0.1"]),
        (KD, ["--seed_everything=true"], ["seed_everything", "True"]),
        (KD, ["--seed_everything=-5"], ["seed_everything", "-5"]),
        (KD, ["--trainer.accelerator=gpuu"], ["trainer", "gpuu", "cpu"]),
        (KD, ["--trainer.strategy=ddpp"], ["trainer", "ddpp", "ddp"]),
        (KD, ["--trainer.limit_val_batches=0", "--protocol.select=best"], ["protocol.select", "limit_val_batches"]),
        (KD, ["--trainer.max_epochs=-1"], ["trainer.max_epochs", "-1", "max_steps"]),
        (KD, ["--run.name=../x"], ["run.name", "'../x'"]),
        (KD, ["--run.output_dir=/etc/hostname/x"], ["run.output_dir", "/etc/hostname"]),
        ("model: {class_path: KD\ndata: Digits\n", [], ["config", "line 2, column 5"]),
        ({"model": KD["model"]}, [], ["data", "required"]),
        (changed(data={"class_path": "ImageFolder", "init_args": {"path": "/nowhere"}}), [], ["data.path", "/nowhere"]),
        (
            changed(data={"class_path": "ImageFolder", "init_args": {"path": "${KD_NO_SUCH}/x"}}),
            [],
            ["data.path", "KD_NO_SUCH", "environment variable"],
        ),
        (
            changed(data={"class_path": "CIFAR10", "init_args": {"path": "/proc/nowhere"}}),
            [],
            ["data.path", "cifar-10-python.tar.gz", "cannot be downloaded"],
        ),
    ],
)
def test_refusals(refused, config: dict | str, args: list[str], words: list[str]) -> None:
    line = refused(config, *args)
    assert all(word in line for word in words), line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_where_there_is_none(refused) -> None:
    assert "trainer: No supported gpu" in refused(changed(trainer__accelerator="gpu"))


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("field", ["model__init_args__teacher", "ckpt_path"])
def test_checkpoints_that_are_none(refused, tmp_path: Path, field: str) -> None:
    whole = tmp_path / "whole.safetensors"
    network = Network("cifar_resnet8")
    checkpoints.write(whole, network.model.state_dict(), network.facts())
    cut, pickled, plain = tmp_path / "cut.safetensors", tmp_path / "evil.ckpt", tmp_path / "plain.pth"
    cut.write_bytes(whole.read_bytes()[:5000])
    torn = tmp_path / "torn.ckpt"
    torch.save({"state_dict": network.model.state_dict()}, torn)
    torn.write_bytes(torn.read_bytes()[:5000])
    pickled.write_bytes(pickle.dumps({"state_dict": Evil(tmp_path / "executed")}))
    torch.save({"a": 1}, plain)
    said = {cut: "corrupt or truncated", torn: "cannot be read", pickled: "could run code", plain: "no state dict"}
    for path, word in said.items():
        if field == "ckpt_path":
            line = refused(KD, f"--ckpt_path={path}")
        else:
            line = refused(changed(**{field: {"name": "cifar_resnet8", "checkpoint": str(path)}}))
        assert str(path) in line
        assert word in line
        assert line.startswith(f"error: {'ckpt_path' if field == 'ckpt_path' else 'model.teacher.checkpoint'}: {path} ")
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_of_another_architecture_shows_the_first_keys(refused, tmp_path: Path) -> None:
    other = Network("cifar_resnet8", model_kwargs={"channels": [4, 4, 8, 16]})
    checkpoints.write(tmp_path / "narrow.safetensors", other.model.state_dict(), other.facts())
    teacher = {"name": "cifar_resnet8", "checkpoint": str(tmp_path / "narrow.safetensors")}
    line = refused(changed(model__init_args__teacher=teacher))
    assert "conv1.weight (4, 3, 3, 3) instead of (16, 3, 3, 3)" in line
    assert line.startswith("error: model.teacher.checkpoint: ")


@pytest.mark.parametrize(
    ("role", "settings", "words"),
    [
        ("teacher", {"name": "cifar_resnet8", "checkpoint": "nix.pth"}, ".checkpoint: nix.pth does not exist"),
        ("student", {"name": "cifar_resnet8", "checkpoint": "nix.pth"}, ".checkpoint: nix.pth does not exist"),
        ("student", {"name": "resnet1x"}, ".name: timm has no model 'resnet1x'; nearest: resnet18"),
        ("student", {"name": "cifar_resnet8", "model_kwargs": {"chans": 1}}, ".model_kwargs.chans is 1; remove it"),
        (
            "teacher",
            {"name": "cifar_resnet8", "pretrained": True, "checkpoint": "nix.pth"},
            ": cifar_resnet8: pretrained and checkpoint are both given",
        ),
    ],
)
def test_an_error_about_a_network_begins_with_its_field(refused, role: str, settings: dict, words: str) -> None:
    assert refused(changed(**{f"model__init_args__{role}": settings})).startswith(f"error: model.{role}{words}")


def test_a_config_that_is_not_there(refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    assert (
        refused(KD, "--config=5")
        == f"error: config: there is no file {tmp_path / '5'}; choices: config.yaml, mine.yaml"
    )
    assert (
        refused(KD, "--config=min.yaml")
        == f"error: config: there is no file {tmp_path / 'min.yaml'}; nearest: mine.yaml, config.yaml"
    )


def test_a_teacher_with_numbers_that_are_not_finite(refused, tmp_path: Path) -> None:
    network = Network("cifar_resnet8")
    network.model.layer2[0].conv1.weight.data[0, 0, 0, 0] = float("nan")
    checkpoints.write(tmp_path / "nan.safetensors", network.model.state_dict(), network.facts())
    teacher = {"name": "cifar_resnet8", "checkpoint": str(tmp_path / "nan.safetensors")}
    line = refused(changed(model__init_args__teacher=teacher))
    assert "nan.safetensors contains numbers that are not finite, in 1 of" in line
    assert "layer2.0.conv1.weight" in line


def test_a_runs_checkpoint_for_another_student(refused, tmp_path: Path) -> None:
    args = ["--run.wandb=off", "--trainer.limit_train_batches=1", "--trainer.enable_progress_bar=false"]
    path = tmp_path / "kd.yaml"
    path.write_text(yaml.safe_dump(KD))
    main(["fit", f"--config={path}", f"--run.output_dir={tmp_path / 'other'}", "--run.id=x", *args])
    ckpt = tmp_path / "other" / "kd_lightning" / "kd-s0" / "x" / "last.ckpt"
    line = refused(KD, f"--ckpt_path={ckpt}", "--model.student.name=cifar_resnet14", command="test")
    assert "ckpt_path" in line
    assert "student.model.layer1.1.conv1.weight" in line
    safetensors = ckpt.with_name("student.safetensors")
    assert "model.student.checkpoint" in refused(KD, f"--ckpt_path={safetensors}", command="test")


@pytest.mark.parametrize("command", ["test", "validate", "predict"])
def test_a_student_that_nobody_trained_is_not_evaluated(refused, command: str) -> None:
    assert f"ckpt_path: {command} needs a trained student" in refused(KD, command=command)


def test_a_teacher_of_other_classes(refused, tmp_path: Path) -> None:
    other = Network("cifar_resnet8", num_classes=7)
    checkpoints.write(tmp_path / "seven.safetensors", other.model.state_dict(), other.facts())
    teacher = {"name": "cifar_resnet8", "checkpoint": str(tmp_path / "seven.safetensors")}
    line = refused(changed(model__init_args__teacher=teacher))
    assert "teacher.num_classes" in line
    assert "7 classes" in line
    assert "10" in line


def test_folders(refused, tmp_path: Path) -> None:
    def line() -> str:
        data = {"class_path": "ImageFolder", "init_args": {"path": str(tmp_path / "images"), "batch_size": 8}}
        model = {"class_path": "Supervised", "init_args": {"student": {"name": "cifar_resnet8"}}}
        return refused(changed(data=data, model=model))

    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
    assert f"{tmp_path / 'images' / 'train'} contains no images" in line()
    pixels = np.zeros((8, 8, 3), np.uint8)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for number in range(40):
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{number}.png")
    bad = tmp_path / "images" / "train" / "dog" / "7.png"
    bad.write_bytes(bad.read_bytes()[:40])
    assert f"{bad} cannot be read as an image" in line()
