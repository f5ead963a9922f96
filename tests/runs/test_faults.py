"""Workers, files, loggers and processes of a run fail: it ends clearly or goes on, and nothing hangs."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers import processes
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from kd_lightning.data.loader import dead_worker
from kd_lightning.loggers import ResumableCSVLogger
from kd_lightning.runs.status import read_state

ARGS = ["--model=Supervised", "--model.student.name=cifar_resnet8", "--data.batch_size=8", "--data.val_split=16"]
ARGS += ["--model.student.model_kwargs={channels: [4, 4, 8, 16]}"]
WITHIN = 60.0
"""Seconds in which a run ends on all its processes when one has died."""


class Fault(Callback):
    """Does what one of these says, once, as the second epoch begins.

    Args:
        kind: kill a worker, kill W&B's service, delete or cut off the files of a folder.
        folder: of images.
    """

    def __init__(self, kind: str, folder: str = "") -> None:
        self.kind, self.folder = kind, folder

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) != (1, 1):
            return
        children = psutil.Process().children(recursive=True)
        if self.kind == "worker":
            children[0].send_signal(signal.SIGKILL)
        if self.kind == "wandb":
            services = [child for child in children if "wandb" in " ".join(child.cmdline())]
            assert services
            for service in services:
                service.kill()
        files = sorted(Path(self.folder).rglob("*.png")) if self.folder else []
        for file in files[: len(files) if self.kind == "vanish" else 3]:
            if self.kind == "vanish":
                file.unlink()
            elif self.kind == "cut":
                file.write_bytes(file.read_bytes()[:45])

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.kind == "worker":
            while exception is not None:
                print("reason:", " ".join(str(exception).split()))
                exception = exception.__cause__ or exception.__context__


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """64 images of two classes, and as many to test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(Path(__file__).parent)
    for number in range(128):
        file = tmp_path / "images" / ("train", "test")[number // 64] / f"class{number % 2}" / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 100 * (number % 2), 0)).save(file)
    return tmp_path / "images"


def fit(folder: Path, images: Path, kind: str, *more: str) -> tuple[int, str, str]:
    """The exit status, what was printed, and the state of the run."""
    fault = (
        f"--trainer.callbacks+={{class_path: test_faults.Fault, init_args: {{kind: {kind}, folder: {images}/train}}}}"
    )
    data = ["--data=ImageFolder", f"--data.path={images}", "--data.size=16"]
    status = processes.fit(folder, [*ARGS[:2], *data, *ARGS[2:], fault, *more], name="a")
    return status, (folder / "a.log").read_text(), read_state(processes.place(folder, "a"))["state"]


IN_FILES = ("--data.memory_limit=0", "--data.num_workers=2")


def test_a_worker_that_is_killed_ends_the_run_in_one_line(tmp_path: Path, images: Path) -> None:
    status, said, state = fit(tmp_path, images, "worker", *IN_FILES)
    (line,) = (line for line in said.splitlines() if line.startswith("error: "))
    # torch's reason differs with the place where its signal arrives
    start = "error: data.num_workers: a process that decodes images has died ("
    assert line.startswith(start)
    assert "possibly for lack of memory" in line
    assert (status, state) == (1, "failed")
    origins = re.findall(r'Traceback \(most recent call last\):\n +File "([^"]+)"', said)
    assert {Path(origin).name for origin in origins} <= {"resource_sharer.py"}  # a thread of multiprocessing


class Broken(Dataset):
    """Raises in the process that decodes."""

    def __getitem__(self, index: int) -> int:
        raise RuntimeError("shapes differ")

    def __len__(self) -> int:
        return 2


def test_an_error_in_a_worker_that_lives_is_not_its_end() -> None:
    with pytest.raises(RuntimeError, match="shapes differ") as raised:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert dead_worker(raised.value) is None


@pytest.mark.parametrize(
    ("workers", "kind"),
    [
        (0, "cut"),
        *(pytest.param(*given, marks=pytest.mark.e2e) for given in ((0, "vanish"), (2, "vanish"), (2, "cut"))),
    ],
)
def test_files_that_vanish_or_turn_corrupt_are_named(tmp_path: Path, images: Path, kind: str, workers: int) -> None:
    status, said, state = fit(tmp_path, images, kind, *IN_FILES[:1], f"--data.num_workers={workers}")
    (line,) = (line for line in said.splitlines() if line.startswith("error: "))
    assert f"{images}/train/class" in line
    assert (status, state) == (2, "failed")
    assert "Traceback" not in said


@pytest.mark.e2e
def test_files_that_turn_corrupt_are_left_out_and_counted_where_that_is_asked_for(tmp_path: Path, images: Path) -> None:
    status, said, state = fit(tmp_path, images, "cut", *IN_FILES, "--data.on_error=skip")
    assert (status, state) == (0, "finished")
    assert "is skipped" in said


@pytest.mark.e2e
def test_images_in_memory_outlive_their_files(tmp_path: Path, images: Path) -> None:
    assert fit(tmp_path, images, "vanish")[::2] == (0, "finished")


@pytest.mark.e2e
def test_a_run_goes_on_without_wandb(tmp_path: Path, images: Path) -> None:
    status, said, state = fit(tmp_path, images, "wandb", "--run.wandb=offline")
    assert (status, state) == (0, "finished"), said
    rows = (processes.place(tmp_path, "a") / "metrics.csv").read_text().splitlines()
    assert len([row for row in rows if row]) > 12
    assert "Traceback" not in said.partition("the result is ")[0]  # behind it, W&B's own end of the process


def test_rows_that_cannot_be_written_are_kept_until_they_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger, other = ResumableCSVLogger(tmp_path / "a"), ResumableCSVLogger(tmp_path / "b")
    full, write = [False], os.replace

    def no_place(*args: object) -> None:
        if full[0]:
            raise OSError(28, "No space left on device")
        write(*args)

    monkeypatch.setattr(os, "replace", no_place)
    for step in range(6):
        for one in (logger, other):
            full[0] = one is logger and step in (2, 3)
            one.log_metrics({"x": step, **({"y": 1.0} if step >= 2 else {})}, step)
            if full[0]:
                with pytest.warns(match="cannot be written") if step == 2 else contextlib.nullcontext():
                    one.save()
            one.save()
    assert (tmp_path / "a/metrics.csv").read_text() == (tmp_path / "b/metrics.csv").read_text()


def two(folder: Path, *more: str) -> subprocess.Popen:
    """`fit` by two processes."""
    slow = "--trainer.callbacks+={class_path: test_faults.Slow}"
    command = [sys.executable, "-m", "kd_lightning", "fit", "--data=Digits", *ARGS, f"--run.output_dir={folder}", slow]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu", "--run.wandb=off"]
    command += ["--trainer.max_epochs=3", "--run.name=run", "--run.id=a", "--trainer.enable_progress_bar=false", *more]
    known = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=known)


class Slow(Callback):
    """Leaves time to send signals in, and says which process is which."""

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        time.sleep(0.05)
        (Path(trainer.default_root_dir).parents[2] / f"rank{trainer.global_rank}").write_text(str(os.getpid()))


def ranks(folder: Path) -> list[int]:
    """The process of each rank, when both train."""
    files = [folder / f"rank{rank}" for rank in range(2)]
    until = time.monotonic() + 300
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < until, "the run has not begun"
        time.sleep(0.1)
    return [int(file.read_text()) for file in files]


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_a_run_whose_rank_dies_ends_on_the_others(tmp_path: Path, dies: int) -> None:
    process = two(tmp_path, "--trainer.max_epochs=100")
    both = ranks(tmp_path)
    os.kill(both[dies], signal.SIGKILL)
    began = time.monotonic()
    while any(psutil.pid_exists(rank) and psutil.Process(rank).status() != "zombie" for rank in both):
        assert time.monotonic() - began < WITHIN
        time.sleep(0.1)
    print(f"rank {dies} dead, the other ended after {time.monotonic() - began:.1f} s")
    assert process.wait(10) != 0
    assert read_state(tmp_path / "kd_lightning/run/a")["state"] in ("killed", "failed")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("told", [0, 1])
def test_all_processes_stop_at_one_step_and_go_on(tmp_path: Path, told: int) -> None:
    process = two(tmp_path, "--ckpt_path=last")
    os.kill(ranks(tmp_path)[told], signal.SIGTERM)
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 143, said
    assert read_state(tmp_path / "kd_lightning/run/a")["state"] == "stopped"
    again = two(tmp_path, "--ckpt_path=last")
    said = again.communicate(timeout=400)[0]
    assert again.returncode == 0, said
    assert read_state(tmp_path / "kd_lightning/run/a")["state"] == "finished"
    whole = two(tmp_path / "whole")
    assert whole.wait(400) == 0
    rows = [(at / "kd_lightning/run/a/metrics.csv").read_text() for at in (tmp_path, tmp_path / "whole")]
    assert rows[0] == rows[1]
