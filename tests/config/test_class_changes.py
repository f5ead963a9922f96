"""A class that replaces another one keeps only what does not depend on the method or on the images."""

import inspect
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import yaml

from kd_lightning import methods
from kd_lightning.cli import main
from kd_lightning.config.class_changes import KEPT
from kd_lightning.data import CIFAR10, CIFAR100, Digits, ImageData, ImageFolder, RandomImages
from kd_lightning.distillation import StudentModule

KD = str(Path(__file__).parents[2] / "configs/digits/kd.yaml")
TRAINING = {
    "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.0123}},
    "lr_scheduler": {"class_path": "WarmupCosine", "init_args": {"warmup_epochs": 3.0}},
    "lr_batch_size": 77, "lr_scaling": "sqrt",
}  # fmt: skip
LOADING = {"batch_size": 13, "eval_batch_size": 14, "num_workers": 0, "on_error": "skip", "views": 2, "val_split": 0.25}
METHODS = [methods.KD, methods.RKD, methods.SP, methods.FitNet, methods.DIST, methods.STKD, methods.Supervised]


def resolved(capfd: pytest.CaptureFixture, *args: str) -> tuple[dict[str, Any], str]:
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["fit", *args, "--print_config"])
    printed = capfd.readouterr()
    assert not ended.value.code, printed.err
    return yaml.safe_load(printed.out), printed.err


def defaults(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(inspect.getmro(kind)):
        if "__init__" in vars(base):
            found |= {name: p.default for name, p in inspect.signature(base.__init__).parameters.items()}
    return {name: value for name, value in found.items() if value is not inspect.Parameter.empty}


def numbers(kind: type) -> dict[str, Any]:
    """Other values than the defaults, for each argument of a method that is a number."""
    values = {name: value for name, value in defaults(kind).items() if type(value) is float}
    if "kd_temperature" not in inspect.signature(kind).parameters and kind in (methods.KD, methods.STKD):
        del values["kd_temperature"]  # the method's own temperature takes its place
    return {name: value / 2 + 0.03 for name, value in values.items()}


@pytest.mark.parametrize(("former", "new"), [*permutations(METHODS, 2)], ids=lambda kind: kind.__name__)
def test_a_method_keeps_nothing_of_the_former_one(
    former: type, new: type, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    given = numbers(former)
    assert "ce_weight" in given
    teacher = {} if former is methods.Supervised else {"teacher": {"name": "cifar_resnet20", "size": 16}}
    model = {"class_path": former.__name__, "init_args": {**given, **TRAINING, **teacher}}
    model["init_args"]["student"] = {"name": "cifar_resnet8", "size": 24}
    file = tmp_path / "former.yaml"
    file.write_text(yaml.safe_dump({"model": model, "data": "Digits"}))
    further = [] if teacher or new is methods.Supervised else ["--model.teacher.name=cifar_resnet32"]
    config, notice = resolved(capfd, f"--config={file}", f"--model={new.__name__}", *further)
    arguments = config["model"]["init_args"]
    for name, default in defaults(new).items():
        if name not in KEPT[StudentModule] and name in arguments:
            assert arguments[name] == default, name
    assert arguments["student"]["size"] == 24
    assert arguments["optimizer"]["init_args"]["lr"] == 0.0123
    assert arguments["lr_scheduler"]["init_args"]["warmup_epochs"] == 3.0
    assert (arguments["lr_batch_size"], arguments["lr_scaling"]) == (77, "sqrt")
    if new is not methods.Supervised:
        assert arguments["teacher"]["name"] == ("cifar_resnet20" if teacher else "cifar_resnet32")
    (line,) = notice.splitlines()
    assert line.startswith(f"settings of {former.__name__} are dropped, because {new.__name__} replaces it: ")
    assert f"ce_weight={given['ce_weight']}" in line
    assert ("teacher=" in line) == (new is methods.Supervised)


def test_defaults_are_not_mentioned_and_later_arguments_are_kept(capfd: pytest.CaptureFixture) -> None:
    config, notice = resolved(capfd, f"--config={KD}", "--model=RKD", "--model.ce_weight=0.4")
    assert not notice
    assert config["model"]["init_args"]["ce_weight"] == 0.4
    config, notice = resolved(capfd, f"--config={KD}", "--model.ce_weight=0.4", "--model=kd_lightning.methods.kd.KD")
    assert not notice  # the same class by another path
    assert config["model"]["init_args"]["ce_weight"] == 0.4


def test_a_config_after_a_config(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    file = tmp_path / "b.yaml"
    file.write_text("model: {class_path: SP, init_args: {sp_weight: 7.0}}\n")
    config, notice = resolved(capfd, f"--config={KD}", "--model.ce_weight=0.4", f"--config={file}")
    arguments = config["model"]["init_args"]
    assert (arguments["sp_weight"], arguments["ce_weight"], arguments["kd_weight"]) == (7.0, 1.0, 0.0)
    assert arguments["optimizer"]["init_args"]["lr"] == 0.1
    assert notice == "settings of KD are dropped, because SP replaces it: ce_weight=0.4\n"


def test_an_optimizer_keeps_no_rate_of_another_one(capfd: pytest.CaptureFixture) -> None:
    config, notice = resolved(capfd, f"--config={KD}", "--model.optimizer=AdamW")
    optimizer = config["model"]["init_args"]["optimizer"]["init_args"]
    assert (optimizer["lr"], optimizer["weight_decay"]) == (0.001, 0.01)
    assert notice == (
        "settings of SGD are dropped, because AdamW replaces it: "
        "lr=0.1, momentum=0.9, weight_decay=0.0005, nesterov=True\n"
    )
    model = ["--model=KD", "--model.teacher.name=cifar_resnet20", "--model.student.name=cifar_resnet8", "--data=Digits"]
    assert not resolved(capfd, *model, "--model.optimizer=AdamW")[1]  # only the method's default is replaced


@pytest.mark.parametrize("new", [CIFAR10, CIFAR100, Digits, RandomImages], ids=lambda kind: kind.__name__)
def test_a_data_set_keeps_only_what_describes_the_loading(
    new: type, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    own = {"path": str(tmp_path), "size": 40, "labeled": False, "max_train_samples": 9, "neighbors": None}
    own["augmentations"] = [{"class_path": "RandomCrop", "init_args": {"padding": 3}}]
    content = yaml.safe_load(Path(KD).read_text()) | {
        "data": {"class_path": "ImageFolder", "init_args": {**own, **LOADING}}
    }
    file = tmp_path / "former.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    config, notice = resolved(capfd, f"--config={file}", f"--data={new.__name__}")
    arguments = config["data"]["init_args"]
    for name, default in defaults(new).items():
        if name not in KEPT[ImageData] and name != "seed":
            assert arguments[name] == default, name
    assert {name: arguments[name] for name in LOADING} == LOADING
    assert notice == (
        f"settings of ImageFolder are dropped, because {new.__name__} replaces it: path={tmp_path}, size=40, "
        "labeled=False, max_train_samples=9, augmentations=[RandomCrop]\n"
    ).replace(str(tmp_path), str(tmp_path) if len(str(tmp_path)) <= 60 else f"{str(tmp_path)[:57]}...")


def test_kept_arguments_exist() -> None:
    known = {StudentModule: {*defaults(methods.KD), "student", "teacher"}, ImageData: {*defaults(ImageFolder)}}
    for base, names in KEPT.items():
        assert {*names} <= known[base]
