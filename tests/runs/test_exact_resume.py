"""A run that was killed, or told to stop, and goes on, leaves bit by bit what one leaves that ran through."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import processes
from helpers.factories import METHODS

from kd_lightning.distillation import Distiller, StudentModule
from kd_lightning.runs.status import read_state

DATA = ["--data=Digits", "--data.max_train_samples=100", "--data.batch_size=25", "--data.val_split=20"]
STUDENT = ["--model.student.name=cifar_resnet8", "--model.student.model_kwargs={channels: [4, 4, 8, 16]}"]
OWN = {"SEED": ["--model.queue_size=60"], "FSP": ["--model.connect=true"]}


def arguments(kind: type[StudentModule]) -> list[str]:
    teacher = ["--model.teacher.name=cifar_resnet20.digits", "--model.teacher.pretrained=true"]
    images = [f"--data.views={kind.min_views}"] if kind.min_views > 1 else []
    if kind.min_positions > 1:  # maps of 4 x 4 positions
        images += [f"--model.{network}.size=16" for network in ("student", "teacher")]
    return [f"--model={kind.__name__}", *(teacher if issubclass(kind, Distiller) else []), *STUDENT, *DATA, *images]


def left(folder: Path) -> dict[str, Any]:
    """All that a run leaves but times, each part as something that can be compared; its folder's name as `RUN`."""
    found: dict[str, Any] = {"metrics.csv": (folder / "metrics.csv").read_text()}
    for name in ("last.ckpt", "best.ckpt"):
        if (folder / name).exists():
            found |= {f"{name}: {key}": value for key, value in parts(torch.load(folder / name, weights_only=True))}
    found = {key.replace(str(folder), "RUN"): value for key, value in found.items() if not key.endswith("/seconds")}
    found = {key: x.replace(str(folder), "RUN") if isinstance(x, str) else x for key, x in found.items()}
    results = json.loads((folder / "results.json").read_text())
    return {**found, "results": [results["metrics"], results["details"], results["last"], results["protocol"]["epoch"]]}


def parts(content: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(content, dict):
        return [one for key, value in content.items() for one in parts(value, f"{name}/{key}")]
    if isinstance(content, list | tuple):
        return [one for number, value in enumerate(content) for one in parts(value, f"{name}/{number}")]
    if isinstance(content, torch.Tensor):
        return [(name, (content.shape, content.dtype, content.contiguous().view(-1).view(torch.uint8).tolist()))]
    return [(name, content)]


def compare(whole: Path, again: Path) -> None:
    one, other = left(whole), left(again)
    differ = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    assert not differ, [(key[:200], str(one.get(key))[-600:], str(other.get(key))[-600:]) for key in differ[:3]]


OTHER_MOMENTS = [moment for moment in processes.MOMENTS if moment != "middle step"]
KINDS = {kind.__name__: kind for kind in METHODS}
BOTH = pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told"])


@BOTH
@pytest.mark.parametrize("moment", ["middle step", *(pytest.param(m, marks=pytest.mark.e2e) for m in OTHER_MOMENTS)])
def test_at_every_moment(moment: str, number: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    check(KINDS["KD"], moment, number, tmp_path_factory)


@pytest.mark.e2e
@pytest.mark.parametrize("kind", METHODS)
def test_every_method(kind: type[StudentModule], tmp_path_factory: pytest.TempPathFactory) -> None:
    """At the step that its place in the alphabet gives, by a signal, so that it goes on from within an epoch."""
    check(kind, processes.MOMENTS[sorted(KINDS).index(kind.__name__) % 2], signal.SIGTERM, tmp_path_factory)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("moment", processes.MOMENTS)
@pytest.mark.parametrize("kind", METHODS)
def test_every_method_at_every_moment(
    kind: type[StudentModule], moment: str, number: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    check(kind, moment, number, tmp_path_factory)


SWA = ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"]
SWA += ["--trainer.callbacks.swa_epoch_start=1"]


@pytest.mark.e2e
@pytest.mark.parametrize("moment", ["middle step", "last step"])
def test_a_callback_that_replaces_the_schedule(moment: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    check(KINDS["Supervised"], moment, signal.SIGTERM, tmp_path_factory, *SWA)


PLATEAU = ["--model.optimizer=torch.optim.SGD", "--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau"]
PLATEAU += [f"--model.lr_scheduler.{setting}" for setting in ("monitor=val/ce", "patience=0", "threshold=0.9")]


@pytest.mark.parametrize("moment", ["last step", pytest.param("middle step", marks=pytest.mark.e2e)])
def test_a_schedule_that_reads_a_logged_value(moment: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    check(KINDS["Supervised"], moment, signal.SIGTERM, tmp_path_factory, *PLATEAU)
    (whole,) = (tmp_path_factory.getbasetemp() / "whole").glob("Supervised*ReduceLROnPlateau*")
    (schedule,) = torch.load(processes.place(whole, "whole") / "last.ckpt", weights_only=True)["lr_schedulers"]
    assert schedule["last_epoch"] == 3
    assert schedule["_last_lr"][0] < 0.05, "the learning rate never fell, so that nothing was tested"


@pytest.mark.e2e
@pytest.mark.parametrize(
    "more",
    [
        ["--model.student.model_kwargs.drop_rate=0.3"],
        ["--trainer.callbacks+=EMA"],
        ["--trainer.callbacks+=EMA", "--protocol.every_n_steps=1"],
        ["--trainer.accumulate_grad_batches=2"],
        ["--trainer.val_check_interval=0.5", "--trainer.log_every_n_steps=3", "--protocol.every_n_steps=1"],
        ["--trainer.callbacks+=KNN", "--trainer.callbacks.every_n_epochs=1", "--guard.nonfinite=skip"],
        ["--model.lr_scheduler=torch.optim.lr_scheduler.StepLR", "--model.lr_scheduler.step_size=1"],
        ["--model.optimizer=AdamW", "--data.mixing={mixup: 0.8, cutmix: 1.0}", "--protocol.select=last"],
        ["--trainer.precision=bf16-mixed"],
    ],
    ids=lambda more: " ".join(more).replace("--", ""),
)
def test_whatever_else_a_run_does(more: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    number = signal.SIGKILL if "--protocol.every_n_steps=1" in more else signal.SIGTERM
    check(KINDS["KD"], "middle step", number, tmp_path_factory, *more)


def check(kind: type[StudentModule], moment: str, number: int, factory: pytest.TempPathFactory, *more: str) -> None:
    args = [*arguments(kind), *OWN.get(kind.__name__, []), *more]
    base = factory.getbasetemp() / "whole" / f"{kind.__name__} {' '.join(more).replace('/', '')}"
    whole = processes.place(base, "whole")
    if not whole.exists():
        base.mkdir(parents=True)
        assert processes.fit(base, args, name="whole") == 0, (base / "whole.log").read_text()
    if moment == "saving the best" and not (whole / "best.ckpt").exists():
        pytest.skip("a method without labels keeps no best epoch")
    epoch = torch.load(whole / "best.ckpt", weights_only=True)["epoch"] if moment == "saving the best" else 1
    folder = factory.mktemp("cut")
    status = processes.fit(folder, args, name="cut", end=(moment, number, epoch))
    log = (folder / "cut.log").read_text()
    assert status == (-9 if number == signal.SIGKILL else 128 + number), log
    assert read_state(processes.place(folder, "cut"))["state"] == ("killed" if number == signal.SIGKILL else "stopped")
    assert processes.fit(folder, args, name="cut") == 0, (folder / "cut.log").read_text()
    assert read_state(processes.place(folder, "cut"))["state"] == "finished"
    assert not [*processes.place(folder, "cut").glob(".*")]
    compare(whole, processes.place(folder, "cut"))
