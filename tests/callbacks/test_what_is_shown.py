"""What a person sees of a run: the bar, the lines, the notices, and the values in metrics.csv."""

import csv
import logging
import warnings
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

import kd_lightning
from kd_lightning.callbacks import Progress
from kd_lightning.callbacks.log_interval import LogInterval
from kd_lightning.cli.main import main
from kd_lightning.io import noise

FIT = ["fit", "--config=configs/quickstart.yaml", "--data.max_train_samples=448", "--data.memory_limit=4"]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"max_epochs": 12}, "epoch 2/12"),
        ({"max_epochs": -1, "max_steps": 3000}, "epoch 2, step 0/3,000"),
        ({"max_epochs": -1}, "epoch 2"),
    ],
)
def test_the_bar_counts_epochs_as_the_lines_do(limits: dict, expected: str) -> None:
    bar = Progress()
    bar._trainer = Trainer(**limits, logger=False, enable_checkpointing=False, accelerator="cpu")
    assert bar._get_train_description(1).rstrip() == expected


@pytest.mark.parametrize(
    ("given", "batches", "accumulated", "expected"),
    [(10, 7, 1, 7), (10, 7, 2, 4), (10, 70, 1, 10), (0, 7, 1, 0), (10, float("inf"), 1, 10)],
)
def test_each_epoch_logs_a_step(given: int, batches: float, accumulated: int, expected: int) -> None:
    trainer = Trainer(log_every_n_steps=given, accumulate_grad_batches=accumulated, accelerator="cpu", logger=False)
    trainer.fit_loop.max_batches = batches
    LogInterval().on_train_start(trainer, None)
    assert trainer.log_every_n_steps == expected


def test_each_notice_is_shown_once_per_command(capsys: pytest.CaptureFixture) -> None:
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    record = log.makeRecord(log.name, logging.INFO, "a.py", 1, "8 files are skipped", (), None)
    for _ in range(2):
        noise.silence()
        assert [log.filter(log.makeRecord(*_parts(record))) is not False for _ in range(3)] == [True, False, False]
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            assert [bool(warnings.formatwarning("odd", UserWarning, "a.py", 1)) for _ in range(2)] == [True, False]
            own = kd_lightning.__file__
            assert warnings.formatwarning("strange", UserWarning, own, 1) == "warning: strange\n"
    noise.end_command()
    assert [log.filter(log.makeRecord(*_parts(record))) is not False for _ in range(2)] == [True, True]


@pytest.mark.parametrize("args", [["test", "nowhere"], ["predict", "a", "--ckpt_path=b"], ["fit", "--nothing=1"]])
def test_notices_are_shown_again_after_a_command_with_wrong_arguments(args: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(args)
    assert noise._shown is None


def _parts(record: logging.LogRecord) -> tuple:
    return record.name, record.levelno, record.pathname, record.lineno, record.msg, record.args, None


def test_a_run_of_few_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    """Seven batches per epoch are fewer than the default of `trainer.log_every_n_steps`."""
    fixed = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", f"--run.output_dir={tmp_path}", "--run.wandb=off"]
    monkeypatch.setenv("COLUMNS", "80")
    main([*FIT, *fixed, "--data.batch_size=64", "--run.name=a-name-" + "of-many-words-" * 4])
    shown = "".join(capfd.readouterr())
    assert "logging interval" not in shown
    assert "Restoring states" not in shown
    (folder,) = (path.parent for path in tmp_path.glob("**/results.json"))
    assert str(folder) in next(line for line in shown.splitlines() if "│ folder" in line)
    rows = [row for row in csv.DictReader((folder / "metrics.csv").open()) if row["train/ce"]]
    assert [row["epoch"] for row in rows] == ["0", "1"]
