"""The benchmark of fit against the bare loop and torchdistill, through the command line."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest
import torch
from helpers.factories import METHODS, digits, method, some_by_default, trainer

from benchmarks import fit as fit_benchmark
from benchmarks import tables
from benchmarks.bare_loop import Loop, NetworksAlone
from benchmarks.memory import Peak
from benchmarks.step_profiler import ORDER, StepProfiler
from kd_lightning.batch import Batch
from kd_lightning.cli import main
from kd_lightning.commands.running import run_class
from kd_lightning.data import Digits
from kd_lightning.distillation import StudentModule
from kd_lightning.methods import KD, SP

ROOT = Path(__file__).parents[2]
KD_CONFIG = f"{ROOT / 'configs/digits/kd.yaml'}"
SP_CONFIG = f"{ROOT / 'configs/digits/sp.yaml'}"
BRIEF = ["--rounds=2", "--steps=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
BRIEF += ["--run.wandb=off", "--data.max_train_samples=300"]


def benchmark(args: list[str]) -> list[dict]:
    return run_class(fit_benchmark.FitBenchmark, args, prog="fit", around_fit=True)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """`fit` in this process, which saves its start; the arguments of each."""
    runs: list[list[str]] = []

    @contextmanager
    def popen(line: list[str], *, stderr: TextIO, **kwargs: object) -> Iterator[SimpleNamespace]:
        runs.append(line[3:])
        try:
            main(line[3:])
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        stderr.write("some noise\nerror: what was wrong\nmore" if code else "")
        yield SimpleNamespace(stdout=[], returncode=code)

    monkeypatch.setattr(fit_benchmark.subprocess, "Popen", popen)
    return runs


def batch(count: int = 8) -> Batch:
    rows = torch.arange(count)
    return Batch(torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8), rows % 10, rows, rows * 7919)


@pytest.mark.e2e
def test_two_configs_two_variants_one_table(
    in_process: list[list[str]], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    path = tmp_path / "found.json"
    variants = "--variants=['', '--speed.channels_last=true']"
    found = benchmark(["--configs", KD_CONFIG, SP_CONFIG, variants, f"--path={path}", *BRIEF])
    assert len(found) == 4
    assert len(in_process) == 12  # the speed, and the memory of two
    assert json.loads(path.read_text()) == found
    for result in found:
        assert {*result["seconds"]} == {"fit", "bare", "networks"}
        for times in result["seconds"].values():
            assert len(times) == 2
            assert min(times) > 0
        assert {*result["parts"]} == {*ORDER}
        for name in ("fit", "bare"):
            assert result["memory"][name]["peak"] >= result["memory"][name]["before"] > 1
    assert [result["title"].split(",")[0] for result in found] == ["KD", "KD", "SP", "SP"]
    assert sum("--speed.channels_last=true" in args for args in in_process) == 6
    printed = capfd.readouterr().out
    for words in ("the bare loop", "parts of a step of fit", "Lightning's loop", "all configs and variants"):
        assert words in printed
    assert not [*Path.cwd().glob("runs/kd_lightning*/bench*")]


@pytest.mark.e2e
@pytest.mark.usefixtures("in_process")
def test_random_images_need_no_data_and_no_weights(capfd: pytest.CaptureFixture) -> None:
    config = f"{ROOT / 'configs/cifar100/resnet56_resnet20/sp.yaml'}"
    (result,) = benchmark(
        ["--configs", config, "--random_images=64", "--data.batch_size=4", "--memory=false", *BRIEF[:5]]
    )
    assert result["title"] == "SP, cifar_resnet56 to cifar_resnet20, 32 px"
    assert result["settings"].startswith("batch 4, ")
    assert result["batches"] == 16
    assert result["memory"] == {}


@pytest.mark.e2e
def test_a_failure_leaves_the_other_lines(in_process: list[list[str]], capfd: pytest.CaptureFixture) -> None:
    variants = "--variants=['--data.batch_size=9999', '']"
    failed, fine = benchmark(["--configs", KD_CONFIG, variants, "--memory=false", *BRIEF])
    assert failed["error"] == "what was wrong"
    assert fine["seconds"]["fit"]
    assert "failed: what was wrong" in capfd.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        benchmark(["--configs", KD_CONFIG, "--memory=false", *BRIEF, "--data.batch_size=9999"])
    assert stopped.value.code == 2
    assert "error: what was wrong" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "configs is required"),
        (["--configs", KD_CONFIG, "--rounds=0"], "rounds: 0 is not above 0"),
        (["--configs", KD_CONFIG, "--against=[]"], "against"),
        (["--configs", KD_CONFIG, "--random_images=0"], "random_images: 0 is not above 0"),
        (["--configs", KD_CONFIG, "--against=timm"], "against: 'timm' is not a valid value; choices: torchdistill"),
    ],
)
def test_refusals(args: list[str], words: str, capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        benchmark(args)
    assert stopped.value.code == 2
    assert words in capfd.readouterr().err


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(fit_benchmark, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        benchmark(["--configs", KD_CONFIG, "--against=torchdistill"])
    assert "against: torchdistill is not installed; pip install 'kd_lightning[bench]'" in capfd.readouterr().err


def test_too_few_batches_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    callback = {
        "class_path": "benchmarks.interleaved_timer.InterleavedTimer",
        "init_args": {"path": str(tmp_path / "x.json")},
    }
    with pytest.raises(SystemExit):
        main(["fit", f"--config={KD_CONFIG}", *BRIEF[2:], "--data.batch_size=200", f"--run.output_dir={tmp_path}",
              f"--trainer.callbacks+={json.dumps(callback)}"])  # fmt: skip
    assert "data.batch_size: this benchmark needs 3 batches per epoch, but there are 1" in capfd.readouterr().err


@pytest.mark.parametrize("kind", some_by_default(METHODS, "SP"))
def test_the_bare_loop_takes_the_same_steps_as_fit(kind: type[StudentModule], tmp_path: Path) -> None:
    seen: list[Batch] = []
    trained = method(kind)
    if hasattr(trained, "check_teacher"):
        trained.check_teacher = False
    trained.lr_scheduler = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
    run, terms = trainer(tmp_path, max_epochs=1), trained.training_terms
    before: dict[str, torch.Tensor] = {}

    def watched(batch: Batch) -> dict[str, torch.Tensor]:
        if run.optimizers:  # before the optimizer exists, a step is tried
            if not seen:  # a method may have read the data: banks of all images, centers of the classes
                before.update(copy.deepcopy(trained.state_dict()))
            seen.append(batch)
        return terms(batch)

    trained.training_terms = watched
    run.fit(trained, datamodule=digits(batch_size=25, val_split=0))
    del trained.training_terms
    after = copy.deepcopy(trained.state_dict())
    trained.load_state_dict(before)
    Loop(trained, run, seen).run(len(seen))
    torch.testing.assert_close(trained.state_dict(), after, rtol=1e-4, atol=1e-5)


def test_the_networks_alone_take_a_step(tmp_path: Path) -> None:
    one = method(SP)
    before = one.student.model.conv1.weight.clone()
    NetworksAlone(one, trainer(tmp_path), [batch()]).run(1)
    assert not torch.equal(one.student.model.conv1.weight, before)


def test_the_watch_gives_each_moment_to_the_innermost_part() -> None:
    now = iter(range(100))
    watch = StepProfiler(lambda: float(next(now)))
    watch.start("run_training_batch")  # before it is to go: not counted
    watch.stop("run_training_batch")
    watch.go()
    watch.start("run_training_batch")  # the loop's own
    watch.start("[Strategy]S.training_step")
    watch.enter("teacher")
    watch.stop()
    watch.stop("[Strategy]S.training_step")
    watch.stop("run_training_batch")
    watch.stop("what began before")
    watch.halt()
    watch.start("validation")
    watch.stop("validation")
    watch.halt()
    assert watch.seconds == {"Lightning's loop": 4.0, "loss": 2.0, "teacher": 1.0}


@pytest.mark.e2e  # a system that takes back memory at the same moment hides the allocation
def test_the_peak_sees_what_was_held_and_freed() -> None:
    grown = []
    for _ in range(3):
        peak = Peak(torch.device("cpu"))
        tensor = torch.ones(60 * 2**18)
        del tensor
        grown.append(peak.mebibytes() - peak.before)
    assert any(40 < each < 200 for each in grown), grown


def test_numbers_of_workers_count_once() -> None:
    seconds = {"fit": [1.0], "other, 0 workers": [3.0], "other, 1 workers": [2.0], "other in bf16, 0 workers": [4.0]}
    assert [*fit_benchmark._best(seconds)] == ["fit", "other, 1 workers", "other in bf16, 0 workers"]


def test_tables_name_the_others(capfd: pytest.CaptureFixture) -> None:
    seconds = {"fit": [1.0], "bare": [1.0], "torchdistill in 32-true, 2 workers": [2.0]}
    result = {"title": "SP", "settings": "batch 1", "images": 1, "batches": 10, "seconds": seconds,
              "parts": {"data": [1.0]},
              "memory": {"torchdistill": {"peak": 77.0, "before": 1.0}}, "config": "a", "variant": ""}  # fmt: skip
    tables.print_one(result)
    tables.print_all([result, {"config": "b", "variant": "", "error": "no"}])
    printed = capfd.readouterr().out
    for words in ("torchdistill in 32-true, 2 workers", "2.00 x as fast", "77 (1 before)", "10.00", "failed: no"):
        assert words in printed


class TestTorchdistill:
    """Where it is installed."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("torchdistill")

    @pytest.mark.parametrize("kind", [KD, SP])
    def test_its_loss_is_ours(self, kind: type[StudentModule], tmp_path: Path) -> None:
        from benchmarks.torchdistill_baseline import _Runner

        ours, run, data = method(kind), trainer(tmp_path), Digits(batch_size=25, max_train_samples=100)
        data.setup("fit")
        run.datamodule_ = data
        runner = self.runner(_Runner, ours, run, data)
        images, labels = batch().images.float() / 255, batch().labels
        ours.log = ours.log_dict = lambda *args, **kwargs: None
        found = ours.train().training_terms(batch()._replace(images=images))
        theirs = runner.box.forward_process((images - ours.student.mean) / ours.student.std, labels, {})
        if kind is SP:  # it divides a row by the sum of its absolute values, where the paper has its length
            maps = [n.features(images, maps=1).maps[0].flatten(1) for n in (ours.teacher, ours.student)]
            rows = [torch.nn.functional.normalize(m @ m.T, p=1) for m in maps]
            found["sp"] = ours.sp_weight * (rows[0] - rows[1]).square().mean()
        torch.testing.assert_close(theirs, sum(found.values()), rtol=1e-4, atol=1e-5)

    @staticmethod
    def runner(kind: Callable, ours: StudentModule, run: object, data: Digits) -> object:
        from contextlib import nullcontext
        from copy import deepcopy
        from types import SimpleNamespace

        trainer = SimpleNamespace(datamodule=data, accumulate_grad_batches=1)
        runner = kind(deepcopy(ours), trainer, data.datasets["train"], 0, nullcontext)
        runner.run(1)
        assert not any(module.training for module in runner.box.teacher_model.modules())
        assert all(value.grad is None for value in runner.box.teacher_model.parameters())
        return kind(deepcopy(ours), trainer, data.datasets["train"], 0, nullcontext)

    @pytest.mark.e2e
    @pytest.mark.usefixtures("in_process")
    def test_it_takes_its_turn(self, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        from benchmarks import torchdistill_baseline

        monkeypatch.setattr(torchdistill_baseline, "WORKERS", (0,))
        (result,) = benchmark(
            ["--configs", SP_CONFIG, "--against=torchdistill", *BRIEF, "--trainer.precision=bf16-mixed"]
        )
        assert [name.partition(",")[0] for name in result["seconds"]] == [
            "fit", "bare", "networks", "torchdistill in bf16-mixed", "torchdistill",
        ]  # fmt: skip
        assert result["memory"]["torchdistill"]["peak"] > 1
        assert "torchdistill" in capfd.readouterr().out

    def test_what_it_cannot_do_alike_is_refused(self) -> None:
        from benchmarks.torchdistill_baseline import runs_of
        from kd_lightning.errors import ConfigError

        with pytest.raises(ConfigError, match="against: only KD, and SP"):
            runs_of(method(SP, layers=2), None)


@pytest.mark.slow
def test_in_processes_of_its_own(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "benchmarks.fit", "--configs", KD_CONFIG, *BRIEF, "--memory=false"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "the bare loop" in done.stdout
    assert "round 0 (not counted): fit, bare, networks\n" in done.stdout
