"""Every method between every two kinds of network, end to end: fit, resume, test, load the student in timm.

The default run has each method between two convolutional networks, and one method between every two kinds.
"""

import re
from pathlib import Path

import pytest
import timm
import torch
from helpers import shared_parser
from helpers.factories import METHODS, VIEWS, cuts_the_student, reads_preactivations, with_weights
from safetensors.torch import load_file

from kd_lightning.cli import main
from kd_lightning.distillation import Distiller, StudentModule
from kd_lightning.methods import FSP
from kd_lightning.models import checkpoints

VIT = {"img_size": 8, "patch_size": 4, "depth": 4, "num_heads": 2, "embed_dim": 16}
CNN = {"channels": [4, 4, 8, 16]}
NETWORKS = {"cnn": ("cifar_resnet8", CNN), "vit": ("vit_tiny_patch16_224", VIT)}
PAIRS = ["cnn-cnn", "vit-cnn", "cnn-vit", "vit-vit"]
CASES = [
    pytest.param(
        kind,
        pair,
        id=f"{kind.__name__}-{pair}",
        marks=pytest.mark.example if kind.__name__ == "SP" else pytest.mark.e2e,
    )
    for kind in METHODS
    for pair in PAIRS
]
BRIEF = ["--data=Digits", "--data.max_train_samples=100", "--data.batch_size=25", "--trainer.limit_train_batches=2"]
BRIEF += [
    f"--data.views={VIEWS}",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--run.wandb=off",
]


def networks(kind: type[StudentModule], pair: str) -> list[dict[str, object]]:
    """The arguments of teacher and student. They enlarge the images for a method that needs 16 positions."""
    described = []
    for name in pair.split("-"):
        network, kwargs = NETWORKS[name]
        if kind.min_positions <= 4:
            described.append({"name": network, "model_kwargs": kwargs})
        elif name == "vit":
            described.append({"name": network, "model_kwargs": {**kwargs, "img_size": 16}})
        else:
            described.append({"name": network, "model_kwargs": kwargs, "size": 16})
    return described


def arguments(kind: type[StudentModule], pair: str, tmp_path: Path) -> list[str]:
    """The method's class and networks; a teacher's weights are written to the folder."""
    teacher, student = networks(kind, pair)
    args = [f"--model={kind.__name__}", f"--model.student={student}"]
    args += ["--model.connect=true"] if kind is FSP else []
    if issubclass(kind, Distiller):
        with_weights(tmp_path, teacher["name"], **teacher["model_kwargs"])
        path = tmp_path / f"{teacher['name']}.safetensors"
        args.append(f"--model.teacher={ {**teacher, 'checkpoint': str(path)} }")
    return args


def check_student(run: Path, kind: type[StudentModule], pair: str, deployed: str) -> None:
    """timm alone builds the network that a run keeps: the student, or the composite that the method deploys."""
    student, student_kwargs = (networks(kind, pair)[1][key] for key in ("name", "model_kwargs"))
    file = run / "student.safetensors"
    facts = checkpoints.read(file)[1]
    assert facts["name"] == deployed
    assert deployed != student or facts["model_kwargs"] == student_kwargs
    taken = timm.create_model(deployed, num_classes=10, **facts["model_kwargs"])
    taken.load_state_dict(load_file(file))
    assert all(torch.isfinite(value).all() for value in taken.state_dict().values())


@pytest.fixture(scope="module")
def parser() -> None:
    """Build the parser of `fit`, which all tests share, before the first method needs it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        shared_parser.share(monkeypatch)
        with pytest.raises(SystemExit):
            main(["fit", "--data=Digits", "--model=KD", "--print_config"])


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("kind", METHODS)
def test_fit_and_go_on_by_the_runs_own_config(kind: type[StudentModule], tmp_path: Path) -> None:
    """Each fit ends with a test of its last checkpoint."""
    args = [*arguments(kind, PAIRS[0], tmp_path), *BRIEF, "--trainer.limit_test_batches=1", "--protocol.select=last"]
    named = [f"--run.output_dir={tmp_path / 'runs'}", "--run.id=1", "--run.name=first"]
    main(["fit", *args, *named, "--trainer.max_epochs=1"])
    first, second = (tmp_path / f"runs/kd_lightning/{name}/1" for name in ("first", "second"))
    more = ["--run.name=second", "--trainer.max_epochs=2", f"--ckpt_path={first / 'last.ckpt'}"]
    resumed = main(["fit", f"--config={first / 'config.yaml'}", *more])
    assert type(resumed.model) is kind
    assert resumed.trainer.global_step == 4
    assert all(torch.isfinite(value) for value in resumed.trainer.callback_metrics.values())
    assert any(name.startswith("test/") for name in resumed.trainer.callback_metrics)
    check_student(second, kind, PAIRS[0], resumed.model.deployed.name)


@pytest.mark.parametrize(("kind", "pair"), CASES)
def test_fit_go_on_test_and_take_the_student_away(
    kind: type[StudentModule], pair: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if pair.startswith("vit") and not issubclass(kind, Distiller):
        pytest.skip("it has no teacher")
    args = arguments(kind, pair, tmp_path)
    if "vit" in pair and reads_preactivations(kind):
        with pytest.raises(SystemExit, match="2"):
            main(["fit", *args, *BRIEF])
        assert re.search("vit_tiny_patch16_224: (this network has )?no (pre-act|BatchNorm)", capsys.readouterr().err)
        return
    if pair.endswith("vit") and cuts_the_student(kind):
        with pytest.raises(SystemExit, match="2"):
            main(["fit", *args, *BRIEF])
        assert "student.name: vit_tiny_patch16_224 cannot be cut" in capsys.readouterr().err
        return
    args += [*BRIEF, "--trainer.callbacks=[{class_path: KNN, init_args: {k: 3}}]"]
    run = tmp_path / "runs/kd_lightning/first/1"
    named = [f"--run.output_dir={tmp_path / 'runs'}", "--run.id=1"]
    main(["fit", *args, *named, "--run.name=first", "--trainer.max_epochs=1"])
    more = ["--run.name=second", "--trainer.max_epochs=2", f"--ckpt_path={run / 'last.ckpt'}"]
    assert main(["fit", *args, *named, *more]).trainer.global_step == 4
    tested = main(["test", f"--config={run / 'config.yaml'}", f"--ckpt_path={run / 'last.ckpt'}"]).trainer
    assert 0 <= tested.callback_metrics["test/knn"] <= 1
    check_student(run, kind, pair, tested.lightning_module.deployed.name)
