"""What happens around a run: the checkpoints that are kept, the table at the start, the lines of an epoch."""

import csv
import inspect
import re
import signal
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from kd_lightning import data
from kd_lightning.callbacks import Progress, Protocol, RunSummary
from kd_lightning.callbacks.checkpoints import BestCheckpoint
from kd_lightning.callbacks.preemption import PreemptionHandler
from kd_lightning.callbacks.protocol import EVALUATED_BY
from kd_lightning.data import Digits
from kd_lightning.errors import StoppedError
from kd_lightning.methods import KD, SP, Supervised
from kd_lightning.models import Network

NARROW = {"channels": [4, 4, 8, 16]}


class Scores(Callback):
    """Replaces val/acc by given values, one an epoch."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val/score", self.values[trainer.current_epoch])


def trainer(folder: Path, callbacks: list[Callback], epochs: int, **kwargs: object) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=callbacks,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **{"logger": False, "limit_train_batches": 2, **kwargs},
    )


def kept(folder: Path, *scores: float, resume: Path | None = None) -> Protocol:
    """A run whose epochs have these validation scores."""
    data, protocol = Digits(max_train_samples=100, batch_size=50), Protocol()
    saving = protocol.checkpoints(folder, validated=True)
    saving[0].monitor = "val/score"
    run = trainer(folder, [Scores(*scores), *saving], len(scores), enable_progress_bar=False)
    run.fit(Supervised(student=Network("cifar_resnet8", model_kwargs=NARROW)), data, ckpt_path=resume)
    return protocol


def epoch(path: Path) -> int:
    return torch.load(path, weights_only=True)["epoch"]


@pytest.mark.parametrize(("scores", "best"), [((0.1, 0.3, 0.2, 0.2), 1), ((0.1, 0.2, 0.3), 2), ((0.5, 0.1), 0)])
def test_last_is_the_last_epoch_and_best_the_best_one(tmp_path: Path, scores: tuple[float, ...], best: int) -> None:
    protocol = kept(tmp_path, *scores)
    assert epoch(tmp_path / "last.ckpt") == len(scores) - 1
    assert epoch(tmp_path / "best.ckpt") == best
    assert protocol.selected == tmp_path / "best.ckpt"


def test_a_resumed_run_takes_the_best_checkpoint_along(tmp_path: Path) -> None:
    kept(tmp_path / "first", 0.1, 0.9)
    kept(tmp_path / "worse", 0.1, 0.9, 0.5, resume=tmp_path / "first" / "last.ckpt")
    kept(tmp_path / "better", 0.1, 0.9, 0.95, resume=tmp_path / "first" / "last.ckpt")
    assert epoch(tmp_path / "worse" / "best.ckpt") == 1
    assert epoch(tmp_path / "better" / "best.ckpt") == 2
    assert epoch(tmp_path / "worse" / "last.ckpt") == 2
    assert epoch(tmp_path / "first" / "best.ckpt") == 1


class Ends(Callback):
    """Ends a run after a batch, as Lightning's Timer does, and counts the validations."""

    def __init__(self, batch: int | None = None) -> None:
        self.batch, self.validated = batch, []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        trainer.should_stop = trainer.should_stop or trainer.fit_loop.total_batch_idx + 1 == self.batch

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated.append(trainer.global_step)


@pytest.mark.parametrize(
    ("settings", "validated", "batches"),
    [
        ({"max_steps": 6}, [4, 6], 2),
        ({"max_steps": 2}, [2], 2),
        ({"max_steps": 6, "check_val_every_n_epoch": 3}, [6], 2),
        ({"max_steps": 6, "val_check_interval": 3}, [3, 6], 2),
        ({"max_steps": 3, "accumulate_grad_batches": 3}, [2, 3], 3),
        ({"batch": 6}, [4, 6], 2),
        ({"batch": 2, "accumulate_grad_batches": 3}, [1], 3),
        ({"batch": 2, "min_epochs": 3}, [4, 8, 12], 4),
        ({"batch": 2, "min_steps": 6}, [4, 6], 2),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, [8, 12], 4),
        ({"max_epochs": 2, "check_val_every_n_epoch": 3}, [], 4),
        ({"max_epochs": 2, "limit_val_batches": 0}, [], 4),
    ],
)
def test_a_run_ends_with_a_validation_of_its_last_weights(
    settings: dict[str, int], validated: list[int], batches: int, tmp_path: Path
) -> None:
    """4 batches per epoch. `batches` is the number of batches of the last epoch."""
    settings = {"limit_train_batches": 4, "max_epochs": 10, **settings}
    ends, protocol = Ends(settings.pop("batch", None)), Protocol()
    saving = protocol.checkpoints(tmp_path, validated=bool(validated))
    run = trainer(
        tmp_path, [ends, protocol, *saving], settings.pop("max_epochs"), enable_progress_bar=False, **settings
    )
    built = Supervised(student=Network("cifar_resnet8", model_kwargs=NARROW))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*could not find the monitored key")
        run.fit(built, Digits(max_train_samples=200, batch_size=50))
    assert ends.validated == validated
    values = {name: value.item() for name, value in run.callback_metrics.items()}
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["last_values"] == values
    assert last["global_step"] == run.global_step
    assert last["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"] == batches
    if validated:
        assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] in validated
        (again,) = run.validate(built, Digits(max_train_samples=200, batch_size=50), verbose=False)
        assert again == pytest.approx({name: value for name, value in values.items() if name.startswith("val/")})


def test_the_lines_show_new_values_and_the_time_left_by_steps(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    built, settings = Supervised(student=Network("cifar_resnet8", model_kwargs=NARROW)), {"check_val_every_n_epoch": 2}
    run = trainer(tmp_path, [Progress()], 10**6, enable_checkpointing=False, max_steps=6, **settings)
    run.fit(built, Digits(max_train_samples=100, batch_size=50))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert ["val/acc" in line for line in lines] == [False, True, False]
    assert all("train/ce" in line for line in lines)
    assert all(re.search(r" 0:00:\d\d left", line) for line in lines)
    assert lines[-1].endswith("0:00:00 left")


def test_what_is_evaluated_follows_from_whether_there_is_validation(tmp_path: Path) -> None:
    for validated, select in ((True, "best"), (False, "last")):
        protocol = Protocol()
        saving = protocol.checkpoints(tmp_path, validated=validated)
        assert protocol.select == select
        assert any(isinstance(callback, BestCheckpoint) for callback in saving) == (select == "best")


@pytest.fixture
def method() -> SP:
    teacher = Network("cifar_resnet20.digits", pretrained=True)
    return SP(teacher=teacher, student=Network("cifar_resnet8", model_kwargs=NARROW, size=16))


def test_the_table_at_the_start_names_networks_images_and_protocol(
    tmp_path: Path, method: SP, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    data, protocol = Digits(max_train_samples=100, batch_size=50), Protocol()
    saving = protocol.checkpoints(tmp_path, validated=True)
    trainer(tmp_path, [protocol, *saving, RunSummary()], 1, enable_progress_bar=False).fit(method, data)
    shown = capsys.readouterr().out
    (teacher,) = (line for line in shown.splitlines() if "teacher" in line)
    (student,) = (line for line in shown.splitlines() if "student" in line)
    assert re.search(r"cifar_resnet20.digits .* loaded .* 269,722 .* 2.5 M .* 64 .* 8 px", teacher)
    assert re.search(r"cifar_resnet8 .* random .* 5,006 .* 0.2 M .* 16 .* 8 to 16 px", student)
    for words in (
        "digits: 100 train, 144 val; 10 classes",
        "train and val in memory ",
        "1 epoch, precision 32",
        "the best epoch is tested",
        str(tmp_path),
    ):
        assert words in shown.replace("\n", "")


def test_what_a_step_learns_from_is_shown_and_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = KD(
        teacher=Network("cifar_resnet20.digits", pretrained=True),
        student=Network("cifar_resnet8", model_kwargs=NARROW),
        lr_batch_size=25,
    )
    monkeypatch.setattr(Network, "macs", lambda self, side: None)
    logger = CSVLogger(tmp_path, name="", version="")
    data, settings = Digits(max_train_samples=100, batch_size=50), {"enable_progress_bar": False, "logger": logger}
    trainer(tmp_path, [RunSummary()], 1, enable_checkpointing=False, accumulate_grad_batches=2, **settings).fit(
        method, data
    )
    shown = capsys.readouterr().out
    assert "counted" in shown  # "not counted": multiply-adds that torch cannot count; the column is narrow
    assert "50 accumulated over 2 batches: 100 per step" in shown
    assert "0.2, linear scaling of the rate for 25 images" in shown
    with (tmp_path / "metrics.csv").open() as file:
        first = next(csv.DictReader(file))
    assert (float(first["run/global_batch"]), float(first["run/learning_rate"])) == (100, 0.2)


def test_the_bar_and_the_lines_show_each_term_accuracy_pace_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shown: dict[str, object] = {}

    class RunStatus(Progress):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
            super().on_train_batch_end(trainer, pl_module, *args)
            shown.update(self.get_metrics(trainer, pl_module))

    method = KD(
        teacher=Network("cifar_resnet20.digits", pretrained=True), student=Network("cifar_resnet8", model_kwargs=NARROW)
    )
    trainer(tmp_path, [RunStatus()], 2, enable_checkpointing=False).fit(
        method, Digits(max_train_samples=100, batch_size=50)
    )
    assert {"ce", "kd", "acc", "val/acc", "images/s", "left"} <= {*shown}
    assert shown["images/s"] > 0
    assert re.fullmatch(r"\d+:\d\d:\d\d", str(shown["left"]))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    assert re.search(r"epoch 2/2: .*train/ce .*train/kd .*val/acc .*; [\d.]+ s, \d+ images/s, 0:00:00 left", lines[1])


@pytest.mark.parametrize(
    ("epochs", "steps", "length", "line"),
    [
        (-1, 3, "3 steps", "epoch 2, step 3/3: "),
        (3, 3, "at most 3 epochs and 3 steps", "epoch 2/3: "),
        (1, -1, "1 epoch", "epoch 1/1: "),
    ],
)
def test_the_length_of_a_run_is_its_limits(
    epochs: int, steps: int, length: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    method = Supervised(student=Network("cifar_resnet8", model_kwargs=NARROW))
    run = trainer(tmp_path, [Progress(), RunSummary()], epochs, max_steps=steps, enable_checkpointing=False)
    run.fit(method, Digits(max_train_samples=100, batch_size=50))
    shown = capsys.readouterr().out
    assert f" {length}, precision" in " ".join(shown.split())
    assert line in shown
    assert shown.rstrip().endswith("0:00:00 left") or "0:00:00 left" in shown.split(line)[1]


def test_what_a_test_shares_with_its_run_are_arguments_that_exist() -> None:
    kinds = [getattr(data, name) for name in data.__all__]
    arguments = {argument for kind in kinds for argument in inspect.signature(kind).parameters}
    named = {key.rpartition(".")[2] for key in EVALUATED_BY if key.startswith("data.init_args.")}
    assert named <= arguments | {*inspect.signature(data.ImageData.__init__).parameters}


@pytest.mark.parametrize(("trains", "where"), [(True, "in epoch 3, after 1,200 steps"), (False, "after 1,200 steps")])
def test_a_stopped_run_counts_epochs_from_1(trains: bool, where: str) -> None:
    """After the last epoch, which `current_epoch` counts as well, no epoch is named."""
    handler = PreemptionHandler()
    handler.told, handler._trains = signal.SIGTERM, trains
    with pytest.raises(StoppedError, match=f"^stopped by SIGTERM {where}; no checkpoint is saved$"):
        handler._end(SimpleNamespace(checkpoint_callbacks=[], fast_dev_run=False, current_epoch=2, global_step=1200))
