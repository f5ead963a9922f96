"""Every command of README, CONTRIBUTING and docs/ runs, on tiny data; what cannot is marked there, and parsed."""

import importlib
import inspect
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.pages import ROOT, Block, blocks
from packaging.version import Version
from PIL import Image

from benchmarks.data import DataBenchmark
from benchmarks.fit import FitBenchmark
from benchmarks.methods import MethodsBenchmark
from benchmarks.start import StartBenchmark
from kd_lightning.cli import main
from kd_lightning.cli.registry import COMMANDS
from kd_lightning.commands.running import run_class
from kd_lightning.data import CIFAR10
from kd_lightning.models import Network, checkpoints

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts and page.name != "photographs.md"]  # test_photographs.py
HUB = "{name: cifar_resnet20.digits, pretrained: true}"

SUBSTITUTES = {
    "{name: tf_efficientnet_lite0, pretrained: true}": HUB,  # what would be fetched from the hub
    "{name: vit_small_patch14_dinov2.lvd142m, pretrained: true, model_kwargs: {img_size: 224}}": HUB,
    "{name: resnet18, pretrained: true}": "{name: resnet18, checkpoint: teacher.safetensors}",
    "runs/photos/teacher/ID/student.safetensors": "teacher.safetensors",  # a run that is not made here
    "--data.size 224": "--data.size 32",
    "--data.size 64": "--data.size 32",
    "configs/eval/cifar10-jpeg.yaml": "evaluate.yaml",  # the evaluators that need no other data
    "--seeds 5": "--seeds 1",
    "--seeds 3": "--seeds 1",
    "--steps 10 ": "",
    "--random_images 50000": "--random_images 1000",
    "'--data.batch_size=64', '--data.batch_size=512 --speed.compile=reduce-overhead'": "'--data.batch_size=8'",
    ", '--speed.compile=default'": "",
}
"""What is written in place of what the pages say. `~` is a folder with photos/, $KD_SHARED has the configs' files."""
TINY = {
    "fit": "--trainer.limit_train_batches=2 --trainer.limit_val_batches=1 --trainer.log_every_n_steps=1"
    " --trainer.enable_progress_bar=false --trainer.accelerator=cpu",
    "test": "--trainer.enable_progress_bar=false --trainer.accelerator=cpu",
    "predict": "--trainer.enable_progress_bar=false --trainer.accelerator=cpu",
    "embed": "--trainer.enable_progress_bar=false --trainer.accelerator=cpu",
    "repeat": "--trainer.max_epochs=1 --trainer.limit_train_batches=2 --run.wandb=off --trainer.accelerator=cpu",
    "benchmarks.fit": "--rounds=1 --steps=1 --memory=false --trainer.accelerator=cpu --data.batch_size=16",
    "benchmarks.data": "--rounds=1 --seconds=0.05 --tables=[memory]",
    "benchmarks.methods": "--batch_size=4 --size=8",
}
"""What is added to a command."""
FEW = {"ImageFolder": "--data.batch_size=8", "cifar10-jpeg": "--data.max_train_samples=300 --data.val_split=20"}
"""What is added where a command names this."""
SLOW = ("benchmarks.fit --", "repeat --")
"""Commands of minutes: processes of their own."""
BENCHMARKS = {
    "benchmarks.data": DataBenchmark,
    "benchmarks.fit": FitBenchmark,
    "benchmarks.methods": MethodsBenchmark,
    "benchmarks.start": StartBenchmark,
}


BLOCKS = [*blocks(PAGES)]
RUN = [block for block in BLOCKS if not block.marker]
MARKED = [block for block in BLOCKS if block.marker]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run in: configs/, photos, a teacher of them, the configs' files, and the pages' own modules."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "configs").symlink_to(ROOT / "configs")
    noise = np.random.default_rng(0)

    def images(where: Path, classes: list[str], count: int) -> None:
        for name in classes:
            (where / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(where / name / f"{number}.png")

    images(folder / "home/photos", ["cats", "dogs"], 30)
    shared = folder / "shared"
    images(folder / "cifar/train", CIFAR10.class_names, 40)
    images(folder / "cifar/test", CIFAR10.class_names, 3)
    (shared / "weights").mkdir(parents=True)
    shutil.make_archive(str(shared / "data/cifar10-jpeg"), "xztar", folder / "cifar")
    for path, name, classes in (
        (shared / "weights/resnet56_cifar10_jpeg.safetensors", "cifar_resnet56", 10),
        (folder / "teacher.safetensors", "resnet18", 2),
    ):
        network = Network(name, num_classes=classes)
        checkpoints.write(path, network.model.state_dict(), network.facts())
    evaluate = yaml.safe_load((ROOT / "configs/eval/cifar10-jpeg.yaml").read_text())
    needy = ("OutOfDistribution", "Corruptions", "Transfer", "FewShot")
    evaluators = [evaluator for evaluator in evaluate["trainer"]["callbacks"] if evaluator["class_path"] not in needy]
    (folder / "evaluate.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": evaluators}}))
    for page, names in (
        ("adding-a-method", ["method", "labels", "views", "bank", "ramp"]),
        ("extending", ["evaluator", "data", "callback"]),
    ):
        text = (ROOT / f"docs/{page}.md").read_text()
        for name in names:
            code = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", text, re.S)[1]
            module = re.search(r'^"""(\w+):', code)[1].lower()
            (folder / f"{module}.py").write_text(code)
    config = re.search(r"<!-- photos.yaml -->\n```yaml\n(.*?)```", (ROOT / "docs/comparing.md").read_text(), re.S)[1]
    pretrained = "{name: tf_efficientnet_lite0, pretrained: true}"
    assert pretrained in config
    tiny = config.replace(pretrained, HUB).replace("size: 64}", "size: 32, batch_size: 8}")
    (folder / "photos.yaml").write_text(tiny)
    return folder


@pytest.fixture(scope="module")
def finished(workshop: Path) -> Path:
    """A run of one epoch, as RUN and as runs/P/NAME/ID."""
    args = ["fit", f"--config={ROOT / 'configs/digits/kd.yaml'}", f"--run.output_dir={workshop / 'once'}"]
    main([*args, "--trainer.max_epochs=1", "--run.wandb=off", *shlex.split(TINY["fit"])])
    (config,) = workshop.glob("once/*/*/*/config.yaml")
    shutil.copytree(config.parent, workshop / "runs/P/NAME/ID")
    (workshop / "RUN").symlink_to(workshop / "runs/P/NAME/ID")
    return workshop


@pytest.fixture
def at_work(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """There, with its files importable, and gone again what a page's command writes once alone."""
    monkeypatch.chdir(finished)
    monkeypatch.setenv("HOME", str(finished / "home"))
    monkeypatch.setenv("KD_SHARED", str(finished / "shared"))
    monkeypatch.syspath_prepend(str(finished))
    for written in ("predictions.safetensors", "embeddings.safetensors", "table.safetensors"):
        (finished / written).unlink(missing_ok=True)
    yield finished
    for file in finished.glob("*.py"):
        sys.modules.pop(file.stem, None)


def adapted(line: str) -> list[str]:
    """The arguments of a command behind `kd_lightning`, made tiny."""
    for text, other in SUBSTITUTES.items():
        line = line.replace(text, other)
    words = shlex.split(line, comments=True)
    assert words[:2] == ["python", "-m"], f"{line}: neither run nor marked <!-- not run: why -->"
    assert words[2] in ("kd_lightning", *BENCHMARKS), f"{line}: neither run nor marked <!-- not run: why -->"
    args = words[3:] if words[2] == "kd_lightning" else words[2:]
    if asks_only(args):
        return args
    added = shlex.split(TINY.get(args[0], ""))
    if args[0] in ("fit", "benchmarks.fit", "test", "show-batch"):
        added += [word for name, more in FEW.items() if name in line for word in more.split()]
    if args[0] == "fit":
        args = without(args, "--trainer.max_epochs", "--trainer.precision", "--data.batch_size")
        epochs = 2 if "ckpt_path" in line and "last.ckpt" in line else 1
        added += [f"--trainer.max_epochs={epochs}"] + ["--run.wandb=off"] * ("--run.wandb" not in line)
    return args + added


def asks_only(args: list[str]) -> bool:
    return any(arg == "--print_config" or arg == "--help" or arg.endswith(".help") for arg in args)


def without(args: list[str], *names: str) -> list[str]:
    """Arguments without some options and their values."""
    drop = {place + k for place, arg in enumerate(args) if arg in names for k in (0, 1)}
    return [arg for place, arg in enumerate(args) if place not in drop]


def _is_slow(block: Block) -> bool:
    return any(name in block.text for name in SLOW)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=str(block), marks=pytest.mark.slow if _is_slow(block) else pytest.mark.e2e)
        for block in RUN
    ],
)
def test_every_command_runs(block: Block, at_work: Path) -> None:
    for line in block.commands:
        args = adapted(line)
        if asks_only(args):
            with pytest.raises(SystemExit) as left:
                run(args)
            assert left.value.code in (0, None), line
        else:
            run(args)


def run(args: list[str]) -> None:
    """Run a command of the package, or a benchmark, in this process."""
    if args and args[0] in BENCHMARKS:
        run_class(BENCHMARKS[args[0]], args[1:], prog=args[0], around_fit=args[0] == "benchmarks.fit")
    else:
        main(args)


@pytest.mark.parametrize("block", MARKED, ids=map(str, MARKED))
def test_what_is_not_run_says_why_and_is_parsed(block: Block, capsys: pytest.CaptureFixture) -> None:
    if block.marker in ("main-job", "tests"):
        assert re.search(rf"^for name in .*\b{block.marker}\b", (ROOT / ".ci/run").read_text(), re.M)
    else:
        assert re.fullmatch(r"not run: \S.{8,}", block.marker), f"{block}: {block.marker}"
    for line in block.commands:
        words = shlex.split(line, comments=True)
        for word in words:
            if word.endswith(".yaml") and not word.startswith(("RUN/", "runs/")):
                assert (ROOT / word.rpartition("=")[2]).exists(), word
        if "kd_lightning" not in words or words[words.index("kd_lightning") - 1] != "-m":
            continue
        args = words[words.index("kd_lightning") + 1 :]
        if args[0] == "fit":
            args = [str(ROOT / arg) if arg.startswith("configs/") else arg for arg in args]
            with pytest.raises(SystemExit) as left:
                main([*args, "--print_config"])
            assert left.value.code in (0, None), f"{line}\n{capsys.readouterr().err}"
        else:
            kind = COMMANDS[args[0]].load()
            options = {arg[2:].partition("=")[0] for arg in args if arg.startswith("--")}
            if args[0] == "repeat":  # takes arguments of `fit` too
                options = {option for option in options if "." not in option}
            assert options <= {*inspect.signature(kind).parameters}, line


def test_substitutes_are_of_use() -> None:
    text = re.sub(r"\\\n\s*", " ", "\n".join(block.text for block in RUN))
    assert not [given for given in SUBSTITUTES if given not in text]


def test_there_are_many_blocks_and_few_are_marked() -> None:
    assert len(RUN) > 35
    assert len(MARKED) < len(RUN) / 2
    if Version(torch.__version__) >= Version("2.12"):  # which torchdistill needs; docs measure against it
        assert importlib.util.find_spec("torchdistill")
