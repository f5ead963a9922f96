"""`--ckpt_path last`, what a run's folder says of it, and what is refused."""

import json
import os
import pickle
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import processes
from helpers.messages import message_of
from helpers.wandb_files import sessions
from lightning.pytorch import Trainer

from kd_lightning.callbacks import RunStatus
from kd_lightning.cli import main
from kd_lightning.data import Digits
from kd_lightning.errors import ConfigError, RunError
from kd_lightning.runs import directory
from kd_lightning.runs.checkpoint_io import AtomicCheckpointIO
from kd_lightning.runs.lock import Lock
from kd_lightning.runs.status import LOCK, in_words, read_state, write_state

ARGS = ["--model=Supervised", "--model.student.name=cifar_resnet8", "--data=Digits", "--data.max_train_samples=100"]
ARGS += ["--model.student.model_kwargs={channels: [4, 4, 8, 16]}", "--data.batch_size=25", "--data.val_split=20"]


def killed(folder: Path, *more: str, moment: str = "middle step", number: int = signal.SIGKILL) -> Path:
    status = processes.fit(folder, [*ARGS, *more], name="a", end=(moment, number))
    assert status in (-9, 128 + number), (folder / "a.log").read_text()
    return processes.place(folder, "a")


def refused(folder: Path, *args: str, status: int = 2) -> str:
    """The line that `fit` with these arguments is refused by."""
    log = folder / "refused.log"
    log.unlink(missing_ok=True)
    fixed = ["--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={folder / 'runs'}", "--run.name=run"]
    fixed += ["--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"]
    assert processes.run(lambda: main(["fit", *ARGS, *fixed, *args]), log) == status, log.read_text()
    (line,) = (line for line in log.read_text().splitlines() if line.startswith("error: "))
    return line


def test_last_without_an_id_takes_the_newest_unfinished_run(tmp_path: Path) -> None:
    run = killed(tmp_path)
    assert in_words(run) == "was killed"
    log = tmp_path / "again.log"
    fixed = ["--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path / 'runs'}", "--run.name=run"]
    fixed += ["--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", "--ckpt_path=last"]
    assert processes.run(lambda: main(["fit", *ARGS, *fixed]), log) == 0, log.read_text()
    state = read_state(run)
    assert (state["state"], state["step"], [one["state"] for one in state["before"]]) == ("finished", 12, ["killed"])
    assert os.listdir(run.parent) == ["a"]
    line = refused(tmp_path, "--ckpt_path=last")
    assert "(number of finished or running runs: 1); to begin a new run, omit ckpt_path" in line


def test_a_finished_run_is_not_gone_on_with_and_not_overwritten(tmp_path: Path) -> None:
    assert processes.fit(tmp_path, ARGS, name="a") == 0
    run = processes.place(tmp_path, "a")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert "a, which has finished; to begin a new run from its checkpoint, give --ckpt_path" in refused(
        tmp_path, "--run.id=a", "--ckpt_path=last"
    )
    line = refused(tmp_path, "--run.id=a")
    assert "belongs to another run, which has finished; to begin a new run, change or omit run.id; to train it" in line
    assert line.endswith(f"give a new run.id, --ckpt_path {run / 'last.ckpt'} and a larger --trainer.max_epochs")
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_a_run_goes_on_with_its_own_settings(tmp_path: Path) -> None:
    run = killed(tmp_path)
    before = (run / "config.yaml").read_bytes(), (run / "metrics.csv").read_bytes()
    line = refused(tmp_path, "--run.id=a", "--ckpt_path=last", "--model.optimizer=SGD", "--model.optimizer.lr=0.3")
    assert "model.init_args.optimizer" in line
    assert "to begin a new run from its checkpoint, give --ckpt_path" in line
    assert ((run / "config.yaml").read_bytes(), (run / "metrics.csv").read_bytes()) == before
    assert read_state(run)["state"] == "killed"


def test_a_running_run_is_left_alone(tmp_path: Path) -> None:
    run = killed(tmp_path)
    lock = Lock(run / LOCK)
    assert lock.take()
    assert f"is running (process {os.getpid()} on " in refused(tmp_path, "--run.id=a", "--ckpt_path=last")
    lock.free()


def test_an_explicit_path_begins_another_run(tmp_path: Path) -> None:
    run = killed(tmp_path)
    log, left = tmp_path / "other.log", (run / "metrics.csv").read_bytes()
    fixed = ["--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path / 'runs'}", "--run.name=run"]
    more = ["--run.id=b", f"--ckpt_path={run / 'last.ckpt'}", "--trainer.max_epochs=2", "--model.optimizer=AdamW"]
    assert processes.run(lambda: main(["fit", *ARGS, *fixed, *more]), log) == 2
    assert (
        "model.optimizer: the checkpoint was saved with SGD, and AdamW cannot resume from its state" in log.read_text()
    )
    assert processes.run(lambda: main(["fit", *ARGS, *fixed, *more[:-1], "--run.id=c"]), log) == 0, log.read_text()
    assert read_state(run.parent / "c")["state"] == "finished"
    assert (read_state(run)["state"], (run / "metrics.csv").read_bytes()) == ("killed", left)


@pytest.mark.parametrize("moment", ["first step", "middle step"])
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path, moment: str) -> None:
    assert processes.fit(tmp_path, ARGS, name="a", end=(moment, signal.SIGKILL, 0)) == -9
    run = processes.place(tmp_path, "a")
    assert not (run / "last.ckpt").exists()
    assert processes.fit(tmp_path, ARGS, name="a") == 0, (tmp_path / "a.log").read_text()
    rows = (run / "metrics.csv").read_text().splitlines()
    (tmp_path / "whole").mkdir()
    assert processes.fit(tmp_path / "whole", ARGS, name="a") == 0
    assert rows == (processes.place(tmp_path / "whole", "a") / "metrics.csv").read_text().splitlines()


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    line = refused(tmp_path, "--run.id=a", "--model.optimizer=SGD", "--model.optimizer.lr=1e6", status=1)
    state = read_state(processes.place(tmp_path, "a"))
    assert state["state"] == "failed"
    assert state["error"] in line
    assert "is nan" in state["error"] or "not finite" in state["error"]
    assert in_words(processes.place(tmp_path, "a")).startswith("has failed (the student's weights are not finite")


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "SIGINT"), (signal.SIGUSR1, "SIGUSR1")])
def test_every_signal_saves_and_says_how_it_goes_on(tmp_path: Path, number: int, said: str) -> None:
    run = killed(tmp_path, number=number)
    log = (tmp_path / "a.log").read_text()
    assert f"{said}: the run stops after this step" in log
    assert f"stopped by {said} in epoch 2, after 7 steps; --ckpt_path last with --run.id a resumes from {run}" in log
    assert "Traceback" not in log
    assert read_state(run)["state"] == "stopped"
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 7


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    run = killed(tmp_path, number=signal.SIGINT, moment="middle step twice")
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 4  # the first epoch's end
    assert read_state(run)["state"] == "stopped"


def test_a_run_that_is_stopped_in_its_test_is_tested_when_it_goes_on(tmp_path: Path) -> None:
    run = killed(tmp_path, number=signal.SIGTERM, moment="test")
    assert not (run / "results.json").exists()
    assert read_state(run)["state"] == "stopped"
    assert processes.fit(tmp_path, ARGS, name="a") == 0, (tmp_path / "a.log").read_text()
    (tmp_path / "whole").mkdir()
    assert processes.fit(tmp_path / "whole", ARGS, name="a") == 0
    ours, theirs = (
        json.loads((processes.place(at, "a") / "results.json").read_text()) for at in (tmp_path, tmp_path / "whole")
    )
    assert ours["metrics"] == theirs["metrics"]
    assert ours["protocol"]["epoch"] == theirs["protocol"]["epoch"]
    whole = processes.place(tmp_path / "whole", "a") / "metrics.csv"
    assert (run / "metrics.csv").read_text() == whole.read_text()


def test_states_of_folders_without_a_word(tmp_path: Path) -> None:
    assert read_state(tmp_path)["state"] == "unknown"
    (tmp_path / "results.json").write_text("{}")
    assert read_state(tmp_path)["state"] == "finished"
    (tmp_path / "state.json").write_text("[1")
    assert read_state(tmp_path)["state"] == "finished"
    write_state(tmp_path, "running")
    assert read_state(tmp_path)["state"] == "killed"
    write_state(tmp_path, "failed", error="it")
    assert in_words(tmp_path) == "has failed (it)"


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_of_before(tmp_path: Path) -> None:
    """By a limit on the size of files, as a quota has it."""
    path, log = tmp_path / "last.ckpt", tmp_path / "log"
    AtomicCheckpointIO().save_checkpoint({"number": torch.arange(3)}, path)

    def write() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            AtomicCheckpointIO().save_checkpoint({"number": torch.zeros(10**6)}, path)
        except RunError as error:
            print(error)

    assert processes.run(write, log) == 0
    assert f"{path} cannot be written (" in log.read_text()
    assert "the previous checkpoint is intact" in log.read_text()
    assert {*os.listdir(tmp_path)} == {"last.ckpt", "log"}
    assert torch.equal(AtomicCheckpointIO().load_checkpoint(path)["number"], torch.arange(3))


def test_a_full_disk_ends_a_run_in_one_line_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    run = killed(tmp_path)
    size = (run / "last.ckpt").stat().st_size

    def fit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        directory.check_room = lambda *args, **kwargs: None  # the disk becomes full after this check
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        dying_args = ["--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path / 'runs'}"]
        dying_args += ["--run.name=run", "--run.id=a", "--trainer.max_epochs=3", "--trainer.log_every_n_steps=1"]
        main(["fit", *ARGS, *dying_args, "--trainer.enable_progress_bar=false", "--ckpt_path=last"])

    log = tmp_path / "full.log"
    assert processes.run(fit, log) == 1, log.read_text()
    (line,) = (line for line in log.read_text().splitlines() if line.startswith("error: "))
    assert "best.ckpt cannot be written" in line or "last.ckpt cannot be written" in line
    assert read_state(run)["state"] == "failed"
    assert processes.fit(tmp_path, ARGS, name="a") == 0, (tmp_path / "a.log").read_text()


def test_the_checkpoint_of_a_stranger_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    said = message_of(lambda: torch.load(tmp_path / "evil.ckpt", weights_only=True))
    with pytest.raises(pickle.UnpicklingError) as raised:
        AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt", weights_only=False)
    assert " ".join(str(raised.value).split()) == said
    assert not (tmp_path / "ran").exists()


def test_signals_are_as_before_when_a_run_has_ended(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    fixed = ["--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path}", "--trainer.max_epochs=1"]
    main(["fit", *ARGS, *fixed, "--trainer.enable_progress_bar=false"])
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == before


@pytest.mark.slow
def test_wandb_goes_on_with_the_same_run(tmp_path: Path) -> None:
    run = killed(tmp_path, "--run.wandb=offline", number=signal.SIGTERM)
    assert processes.fit(tmp_path, [*ARGS, "--run.wandb=offline"], name="a") == 0, (tmp_path / "a.log").read_text()
    both = sessions(run)
    assert [next(one.run.run_id for one in session if one.HasField("run")) for session in both] == ["a", "a"]
    items = [[item for one in session for item in one.history.item] for session in both]
    steps = [[int(item.value_json) for item in some if "trainer/global_step" in item.nested_key] for some in items]
    assert [*dict.fromkeys(steps[0] + steps[1])][:12] == [*range(12)]
    assert max(steps[0]) < min(steps[1])


def test_a_second_start_of_a_run_that_is_still_reading_images_touches_nothing(tmp_path: Path) -> None:
    """The second one begins when the first has its folder, and ends before the first has trained."""
    fixed = ["--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path / 'runs'}", "--run.name=run"]
    again = ["fit", *ARGS, *fixed, "--trainer.max_epochs=3", "--run.id=a", "--ckpt_path=last"]
    seen = []

    def with_a_second(self: Digits, stage: str) -> None:
        if not seen:
            seen.append(processes.run(lambda: main(again), tmp_path / "second.log"))
        setup(self, stage)

    setup = Digits.setup
    Digits.setup = with_a_second
    try:
        main([*again, "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"])
    finally:
        Digits.setup = setup
    assert seen == [2]
    assert "a is being run by process" in (tmp_path / "second.log").read_text()
    run = processes.place(tmp_path, "a")
    assert read_state(run)["state"] == "finished"
    assert sum("," in row for row in (run / "metrics.csv").read_text().splitlines()) >= 1 + 12 + 3


def test_a_folder_that_another_process_has_filled_meanwhile_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    watch = RunStatus(folder, resumes=False, writes=True, explain=lambda error: None)
    folder.mkdir()
    (folder / "config.yaml").write_text("model: KD")
    with pytest.raises(ConfigError, match="another process has used run in the meantime"):
        watch.__enter__()
    assert [*folder.iterdir()] == [folder / "config.yaml"]


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with RunStatus(tmp_path / "p/n/id", resumes=False, writes=True, explain=lambda error: None):
        assert (tmp_path / "p/n/id" / LOCK).exists()
    assert not (tmp_path / "p").exists()
    (tmp_path / "p").mkdir()
    with RunStatus(tmp_path / "p/n/id", resumes=False, writes=True, explain=lambda error: None):
        pass
    assert [*tmp_path.rglob("*")] == [tmp_path / "p"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_while_saving_is_no_failure(tmp_path: Path, number: int) -> None:
    run = killed(tmp_path, number=number, moment="saving the last twice")
    assert read_state(run)["state"] == "stopped"
    assert processes.fit(tmp_path, ARGS, name="a") == 0, (tmp_path / "a.log").read_text()


def test_workers_do_not_hold_the_lock_of_a_killed_run(tmp_path: Path) -> None:
    lock = Lock(tmp_path / LOCK)
    assert lock.take()
    worker = os.fork()
    if not worker:
        signal.pause()
    lock.free()
    other = Lock(tmp_path / LOCK)
    (tmp_path / LOCK).touch()
    assert other.take()
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    other.free()


def test_a_lock_is_not_written_through_a_link(tmp_path: Path) -> None:
    run = killed(tmp_path)
    (run / LOCK).unlink()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (run / LOCK).symlink_to(victim)
    line = refused(tmp_path, "--run.id=a", "--ckpt_path=last")
    assert "cannot be opened as a lock file" in line
    assert line.rstrip().endswith("; remove it")
    assert victim.read_text() == "mine"


def test_a_lock_that_cannot_be_created_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(ConfigError, match=rf"\(Permission denied\); make sure that {tmp_path} is writable$"):
        Lock(tmp_path / LOCK).take()


@pytest.mark.parametrize("content", [None, "a: [1\nb: {", "schema: 3"])
def test_a_run_whose_settings_are_lost_is_not_gone_on_with_under_others(tmp_path: Path, content: str | None) -> None:
    run = killed(tmp_path)
    (run / "config.yaml").unlink()
    if content is not None:
        (run / "config.yaml").write_text(content)
    line = refused(tmp_path, "--run.id=a", "--ckpt_path=last")
    assert "to begin a new run from its checkpoint, give --ckpt_path" in line
    (run / "last.ckpt").unlink()
    if content != "schema: 3":
        assert processes.fit(tmp_path, ARGS, name="a") == 0, (tmp_path / "a.log").read_text()
        assert "cifar_resnet8" in (run / "config.yaml").read_text()


def test_max_steps_within_an_epoch_and_stopped_in_the_test(tmp_path: Path) -> None:
    more = ["--trainer.max_steps=6"]
    run = killed(tmp_path, *more, moment="test")
    assert processes.fit(tmp_path, [*ARGS, *more], name="a") == 0, (tmp_path / "a.log").read_text()
    (tmp_path / "whole").mkdir()
    assert processes.fit(tmp_path / "whole", [*ARGS, *more], name="a") == 0
    whole = processes.place(tmp_path / "whole", "a")
    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


def test_a_failed_start_lets_the_run_go(tmp_path: Path) -> None:
    run = killed(tmp_path)
    fixed = ["--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path / 'runs'}", "--run.name=run"]
    fixed += ["--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", "--run.id=a", "--ckpt_path=last"]
    with pytest.raises(SystemExit):
        main(["fit", *ARGS, *fixed, "--trainer.devices=-5", "--trainer.enable_progress_bar=false"])
    assert not Lock(run / LOCK).is_held()
    assert "KD_LIGHTNING_RUN" not in os.environ


def test_no_key_in_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "abcdefghijk123456")
    watch = RunStatus(tmp_path / "run", resumes=False, writes=True, explain=lambda error: None)

    def fail() -> None:
        with watch:
            watch.setup(Trainer(logger=False, max_epochs=1, accelerator="cpu"), None, "fit")
            raise ValueError("boom abcdefghijk123456")

    with pytest.raises(ValueError, match="boom"):
        fail()
    assert read_state(tmp_path / "run")["error"] == "boom ***"


def test_what_stands_in_a_runs_folder_by_mistake(tmp_path: Path) -> None:
    run = killed(tmp_path)
    (run / ".x.partial").mkdir()
    (run / "state.json").write_text('{"state": "running", "before": 3}')
    assert processes.fit(tmp_path, ARGS, name="a") == 0, (tmp_path / "a.log").read_text()
