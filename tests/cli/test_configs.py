"""Every config in configs/ is resolved; end to end, each is fitted for a few steps on tiny data."""

import difflib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.resolved import CONFIGS, REFERENCE, fitted, reference, resolve
from PIL import Image

from kd_lightning.cli import main
from kd_lightning.data import CIFAR10, ImageData, ImageNet, TinyImageNet
from kd_lightning.data.images import StoredImages
from kd_lightning.evaluation import Evaluator
from kd_lightning.models import Network, checkpoints

EVALUATIONS = sorted((CONFIGS / "eval").glob("*.yaml"))
FILES = fitted()  # test_two_processes.py runs with configs/trainer, test_sweeps.py with configs/sweeps
every_config = pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(CONFIGS)) for file in FILES])
BRIEF = ["--trainer.accelerator=cpu", "--trainer.max_epochs=2", "--trainer.limit_train_batches=2"]
BRIEF += ["--trainer.limit_val_batches=1", "--trainer.limit_test_batches=1", "--trainer.log_every_n_steps=1"]
BRIEF += ["--trainer.precision=32", "--data.batch_size=8", "--trainer.enable_progress_bar=false", "--run.wandb=off"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in place of cifar10-jpeg and CINIC-10: 10 classes, 32 pixels."""
    root, noise = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 3)):
        for name in CIFAR10.class_names:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in place of the CIFARs, Tiny-ImageNet and ImageNet."""

    def load(self: ImageData, split: str) -> StoredImages | None:
        count = 110 if isinstance(self, TinyImageNet) else 40
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        return None if split == "val" else StoredImages(images, torch.arange(count) % min(10, self.num_classes))

    for kind in (CIFAR10, TinyImageNet, ImageNet):
        monkeypatch.setattr(kind, "load", load)
        monkeypatch.setattr(kind, "download", lambda self: None)


def some_teacher(teacher: dict, data: str, path: Path, size: int | None = None) -> list[str]:
    """Random weights in place of those that the config names, and a smaller grid for a ViT of 224 pixels.

    The statistics of BatchNorm are those of noise: without them, the maps grow from stage to stage, to values that no
    trained teacher has.
    """
    if not teacher["checkpoint"] and teacher["name"].endswith(".digits"):
        return []
    classes = {"CIFAR100": 100, "TinyImageNet": 1000, "ImageNet": 0}.get(data, 10)  # 0: self-supervised
    classes = 1000 if teacher["name"].endswith("in1k") else classes
    name, kwargs = teacher["name"].partition(".")[0], {**(teacher["model_kwargs"] or {})}
    args = [f"--model.teacher.name={name}", f"--model.teacher.checkpoint={path}", "--model.teacher.pretrained=false"]
    if kwargs.get("img_size", 0) > 56:
        kwargs["img_size"] = 56
        args += ["--model.teacher.model_kwargs.img_size=56", "--model.student.model_kwargs.img_size=56"]
    network = Network(name, num_classes=classes, model_kwargs=kwargs, size=teacher["size"] or size)
    norms = [module for module in network.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the statistics are those of all noise that was seen
    if norms:
        with torch.no_grad():
            network.model.train()(torch.randn(16, 3, 32, 32))
    checkpoints.write(path, network.model.state_dict(), network.facts())
    return args


def some_student(content: dict, path: Path) -> Path:
    """Weights of no worth in place of those of an earlier run."""
    student = content["model"]["init_args"]["student"]
    network = Network(student["name"], num_classes=10, model_kwargs=student["model_kwargs"])
    checkpoints.write(path, network.model.state_dict(), network.facts())
    return path


@every_config
def test_every_config_resolves_to_given_and_default_values(file: Path) -> None:
    printed, given = resolve(file), yaml.safe_load(file.read_text())
    for group in ("data", "model"):
        values = given[group]
        if isinstance(values, str):  # the path of a sub-config
            values = yaml.safe_load((file.parent / values).read_text())
        assert printed[group]["class_path"].rpartition(".")[2] == values["class_path"].rpartition(".")[2]
        assert {*values.get("init_args", {})} <= {*printed[group]["init_args"]}


def test_no_config_changes_in_silence() -> None:
    before, now = REFERENCE.read_text(), reference()
    changed = "\n".join(
        difflib.unified_diff(before.splitlines(), now.splitlines(), "committed", "now", lineterm="", n=1)
    )
    assert before == now, f"If this is intended: python -m tests.helpers.resolved, and commit it.\n{changed[:3000]}"


def test_every_sub_config_is_used() -> None:
    named = {
        (file.parent / path).resolve()
        for file in FILES
        for path in re.findall(r"^ *\w+: (\S+\.yaml)$", file.read_text(), flags=re.MULTILINE)
    }
    assert named == {file.resolve() for file in CONFIGS.rglob("base/**/*.yaml")}


STATISTICS = {  # mean and standard deviation of each data set; of ImageNet for akamaster's checkpoints, which need them
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),
    "cinic10": ([0.4789, 0.4723, 0.4305], [0.2421, 0.2383, 0.2587]),
    ".th": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


@pytest.mark.parametrize("folder", [name for name in STATISTICS if name != ".th"])
def test_both_networks_have_the_mean_and_std_of_the_data_set(folder: str) -> None:
    files = [file for file in FILES if file.relative_to(CONFIGS).parts[0] == folder]
    assert files
    for file in files:
        networks = resolve(file)["model"]["init_args"]
        for network in (networks["student"], networks.get("teacher")):
            if network:
                trained_elsewhere = Path(network["checkpoint"] or "").suffix == ".th"
                expected = STATISTICS[".th" if trained_elsewhere else folder]
                assert (network["mean"], network["std"]) == expected, file


@pytest.mark.e2e
@pytest.mark.usefixtures("noise")
@every_config
def test_every_config_runs(file: Path, folder: Path, tmp_path: Path) -> None:
    content = resolve(file)
    data = content["data"]["class_path"].rpartition(".")[2]
    args = ["fit", f"--config={file}", f"--run.output_dir={tmp_path}", *BRIEF]
    if data == "ImageFolder":
        args += [f"--data.path={folder}", "--data.max_train_samples=300", "--data.val_split=20"]
    if data == "CINIC10":
        args.append(f"--data.path={folder}")
    if data.endswith("ImageNet"):
        args.append("--data.augmentations=cifar")  # the noise is no file to crop from
    if teacher := content["model"]["init_args"].get("teacher"):
        size = content["model"]["init_args"]["student"]["size"]
        args += some_teacher(teacher, data, tmp_path / "teacher.safetensors", size)
    if content["model"]["init_args"]["student"]["checkpoint"]:
        args.append(f"--model.student.checkpoint={some_student(content, tmp_path / 'student.safetensors')}")
    if content["model"]["init_args"]["probe_epochs"]:
        args.append("--model.probe_epochs=1")
    if content["data"]["init_args"]["neighbors"]:
        args += ["--data.batch_size=16", f"--data.neighbors.path={tmp_path / 'table.safetensors'}"]
        main(["build-neighbors", *(arg for arg in args[1:] if not arg.startswith("--trainer.limit"))])
    cli = main(args)
    metrics = cli.trainer.callback_metrics
    evaluated = [metrics[name] for name in ("test/acc", "test/knn") if name in metrics]
    assert evaluated
    assert torch.isfinite(torch.stack(evaluated)).all()
    (run,) = tmp_path.glob("*/*/*/config.yaml")
    project, name, _ = run.parent.relative_to(tmp_path).parts
    assert project == content["run"]["project"]
    expected = content["run"]["name"] or f"{content['model']['class_path'].rpartition('.')[2].lower()}-s0"
    assert name == expected.replace("{seed}", "0")
    for kept in ("last.ckpt", "student.safetensors", "metrics.csv"):
        assert (run.parent / kept).exists()


@pytest.mark.e2e
@pytest.mark.usefixtures("noise")
def test_evaluates_evaluate_on_every_axis(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_SHARED", str(tmp_path))
    (evaluate,) = EVALUATIONS
    file = CONFIGS / "cifar10-jpeg/resnet56_resnet20/kd.yaml"
    teacher = some_teacher(
        resolve(file)["model"]["init_args"]["teacher"], "ImageFolder", tmp_path / "teacher.safetensors"
    )
    args = ["fit", f"--config={file}", f"--config={evaluate}", f"--run.output_dir={tmp_path}", *BRIEF, *teacher]
    cli = main([*args, f"--data.path={folder}", "--data.max_train_samples=300", "--data.val_split=20"])
    named = {item["class_path"] for item in yaml.safe_load(evaluate.read_text())["trainer"]["callbacks"]}
    assert named == {
        type(evaluator).__name__ for evaluator in cli.trainer.callbacks if isinstance(evaluator, Evaluator)
    }
    found = {*cli.trainer.callback_metrics}
    axes = {"ece", "cka", "knn_200", "linear", "few_shot_5", "map", "transfer_digits", "ood_knn_tiny-imagenet"}
    assert {f"test/{name}" for name in (*axes, "ood_msp_digits_fpr95", "corrupted_relative")} <= found


@every_config
def test_every_config_opens_with_paper_and_command(file: Path) -> None:
    head = [line for line in file.read_text().splitlines() if line.startswith("# ")]
    path = file.relative_to(CONFIGS.parent)
    assert any(f"python -m kd_lightning fit --config {path}" in line for line in head)
    assert not any(line.startswith("# Expected: ") for line in head)  # docs/ledger.yaml has the results
    assert any("20" in line and '"' in line for line in head[:3])  # the paper's year and title


def test_methods_tests_and_configs_mirror_each_other() -> None:
    methods = {file.stem for file in (CONFIGS.parent / "kd_lightning" / "methods").glob("*.py")}
    methods -= {"__init__", "student", "distiller", "supervised"}
    tests = {file.stem.removeprefix("test_") for file in (CONFIGS.parent / "tests" / "methods").glob("test_*.py")}
    assert methods <= tests
    assert methods <= {file.stem for file in FILES}
