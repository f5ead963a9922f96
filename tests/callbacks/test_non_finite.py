"""A loss that is not finite, through the command line: the run stops with its name and goes on later, or skips it."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from helpers.factories import digits, method, trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from kd_lightning import methods
from kd_lightning.batch import Batch
from kd_lightning.callbacks import NonFiniteGuard
from kd_lightning.cli import main
from kd_lightning.distillation.run_hooks import RunHooks
from kd_lightning.errors import RunError

BASELINE = f"--config={Path(__file__).parents[2] / 'configs/digits/baseline.yaml'}"
SEEN: list[tuple[int, Tensor]] = []


class Faulty(methods.Supervised):
    """Its loss is not finite for one or more batches, counted from the start, and its BatchNorms are then spoilt.

    Args:
        at: these.
        value: the loss.
        first: whether it is the first rank that has it.
        **kwargs: as for every method.
    """

    def __init__(self, *, at: list[int], value: float = math.nan, first: bool = True, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.at, self.value, self.first, self.count = at, value, first, 0

    def training_terms(self, batch: Batch) -> dict[str, Tensor]:
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx
        if self.trainer.optimizers:  # not in the trial of a step before the run
            SEEN.append((self.trainer.current_epoch, batch.indices))
        losses = super().training_terms(batch)
        if number not in self.at or self.first != self.trainer.is_global_zero:
            return losses
        for module in self.student.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.data.fill_(math.nan)
        return {**losses, "hint": losses["ce"] * self.value}


class Kept(Callback):
    """Keeps the student's weights before each step."""

    weights: ClassVar[list[dict[str, Tensor]]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        Kept.weights.append({n: v.clone() for n, v in pl_module.student.state_dict().items()})


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture):
    """Runs five steps an epoch, for two epochs; gives the exit status, and the error's line."""
    monkeypatch.syspath_prepend(Path(__file__).parent)

    def run(*args: str) -> tuple[int, str]:
        SEEN.clear(), Kept.weights.clear()
        fixed = [
            "--trainer.accelerator=cpu",
            "--run.wandb=off",
            f"--run.output_dir={tmp_path}",
            "--trainer.max_epochs=2",
        ]
        fixed += ["--trainer.callbacks+=test_non_finite.Kept", "--trainer.enable_progress_bar=false", "--run.project=p"]
        fixed += [
            "--run.name=n",
            "--data.max_train_samples=500",
            "--data.batch_size=100",
            "--trainer.log_every_n_steps=1",
        ]
        try:
            main(["fit", BASELINE, "--model=test_non_finite.Faulty", *fixed, *args])
            status = 0
        except SystemExit as stopped:
            status = stopped.code
        said = capfd.readouterr()
        lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in said.err
        assert len(lines) == (status != 0)
        return status, "".join(lines) or said.err + said.out

    return run


def same(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return all(torch.equal(some[n], others[n]) for n in others if not n.endswith("num_batches_tracked"))


def student(path: Path) -> dict[str, Tensor]:
    state = torch.load(path, weights_only=True)["state_dict"]
    return {n.removeprefix("student."): v for n, v in state.items() if n.startswith("student.")}


class Adding(methods.Supervised):
    """Its training step adds what is no term of its losses, and not finite in the third."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.trainer.optimizers:  # not in the trial of a step before the run
            SEEN.append((self.trainer.current_epoch, batch.indices))
        return super().training_step(batch, batch_idx) * (math.inf if batch_idx == 2 else 1.0)


class Masked(methods.Supervised):
    """Holds a constant that is not finite, as causal masks are."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.register_buffer("mask", torch.full((4, 4), -math.inf).triu(1))


def test_a_loss_that_is_no_term_is_seen_before_the_optimizer_moves(fit) -> None:
    status, line = fit("--model=test_non_finite.Adding", "--run.id=stopped")
    assert status == 1
    assert f"train/loss is inf for the images with the indices {SEEN[-1][1][0]}, " in line
    assert "in epoch 1, step 3; --ckpt_path" in line
    assert len(SEEN) == 3
    assert not same(Kept.weights[2], Kept.weights[1])


def test_a_constant_may_hold_infinities(fit, tmp_path: Path) -> None:
    status, _ = fit("--model=test_non_finite.Masked", "--run.id=whole")
    assert status == 0
    assert (tmp_path / "p/n/whole/last.ckpt").exists()


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize("at", [0, 2, 4, 5, 9])
def test_it_stops_with_the_last_good_state_and_goes_on_behind_it(fit, tmp_path: Path, at: int, value: str) -> None:
    if value != ".nan" and at != 2:
        pytest.skip("the same for any step")
    status, line = fit(f"--model.at=[{at}]", f"--model.value={value}", "--run.id=stopped")
    stopped_at = SEEN[-1][1]
    last = tmp_path / "p/n/stopped/last.ckpt"
    assert status == 1
    assert f"train/hint is {value.replace('.', '')}" in line
    assert f"in epoch {at // 5 + 1}, step {at + 1};" in line
    assert f"images with the indices {', '.join(map(str, stopped_at[:16].tolist()))}, ... (100 in all)" in line
    assert str(last) in line
    assert ("labels" in line) == (at == 0)
    assert len(SEEN) == at + 1
    assert same(student(last), Kept.weights[-1])
    assert fit("--model.at=[]", "--run.id=whole")[0] == 0
    whole = [*SEEN]
    assert torch.equal(whole[at][1], stopped_at)
    assert fit("--model.at=[]", f"--ckpt_path={last}", "--run.id=resumed")[0] == 0
    assert len(SEEN) == 10 - at - 1
    for (epoch, indices), (epoch_again, indices_again) in zip(whole[at + 1 :], SEEN, strict=True):
        assert epoch == epoch_again
        assert torch.equal(indices, indices_again)


@pytest.mark.parametrize("bad", [2, 3])
def test_an_accumulated_batch_spoils_the_whole_step(fit, tmp_path: Path, bad: int) -> None:
    status, line = fit(f"--model.at=[{bad}]", "--trainer.accumulate_grad_batches=2", "--run.id=x")
    assert status == 1
    assert f"images with the indices {SEEN[bad][1][0]}, " in line
    assert "in epoch 1, step 2;" in line
    assert len(SEEN) == 4
    assert same(student(tmp_path / "p/n/x/last.ckpt"), Kept.weights[2])


@pytest.mark.parametrize("accumulated", [1, 2])
def test_skipped_steps_leave_no_trace_but_their_number(fit, tmp_path: Path, accumulated: int) -> None:
    more = [f"--trainer.accumulate_grad_batches={accumulated}", "--guard.nonfinite=skip", "--run.id=x"]
    steps = 10 if accumulated == 1 else 6
    with pytest.warns(match=f"guard.nonfinite: 2 of {steps} steps were skipped"):
        assert fit("--model.at=[3, 6]", *more)[0] == 0
    assert len(SEEN) == 10
    for bad, before in ((3, 3 if accumulated == 1 else 2), (6, 6 if accumulated == 1 else 5)):
        after = bad // accumulated * accumulated + accumulated if bad < 5 else 7
        assert same(Kept.weights[before], Kept.weights[after])
    assert all(torch.isfinite(value).all() for value in student(tmp_path / "p/n/x/last.ckpt").values())
    counts = (tmp_path / "p/n/x/metrics.csv").read_text().splitlines()
    column = counts[0].split(",").index("train/skipped")
    assert [float(c) for row in counts[1:] if (c := row.split(",")[column])][-1] == 2


def test_skipping_all_of_an_epoch_stops(fit) -> None:
    status, line = fit("--model.at=[2, 3, 4, 5, 6]", "--guard.nonfinite=skip")
    assert status == 1
    assert "the last 5 steps were all skipped" in line
    assert len(SEEN) == 7


def test_weights_that_are_not_finite_are_never_saved(fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a gradient that is not: in the last step of an epoch no loss tells."""
    after = RunHooks.on_after_backward

    def overflow(self: RunHooks) -> None:
        after(self)
        if self.trainer.fit_loop.epoch_loop.total_batch_idx in self.at:
            next(self.student.parameters()).grad.fill_(math.inf)

    monkeypatch.setattr(RunHooks, "on_after_backward", overflow)
    for at, words in (
        (9, "weights are not finite in epoch 2, after step 10 and are not saved"),
        (7, "train/ce is nan"),
    ):
        status, line = fit(f"--model.at=[{at}]", "--model.first=false", f"--run.id={at}")
        last = tmp_path / f"p/n/{at}/last.ckpt"
        assert status == 1
        assert words in line
        assert f"the last good checkpoint is {last}" in line
        assert same(student(last), Kept.weights[5])
    assert "no good checkpoint" in fit("--model.at=[1]", "--model.first=false")[1]


def scaled(**kwargs: object) -> Trainer:
    """In 16-mixed as on a GPU; Lightning's own flag refuses it on a CPU."""
    return trainer(Path(), NonFiniteGuard(**kwargs), plugins=[MixedPrecision("16-mixed", "cpu")], max_epochs=3)


def test_the_scalers_overflow_is_no_fault() -> None:
    run, built = scaled(), method(methods.SP, sp_weight=3e6)
    before = run.precision_plugin.scaler.get_scale()
    run.fit(built, digits())
    assert run.precision_plugin.scaler.get_scale() < before
    assert run.callbacks[0].skipped == 0


def test_skipping_beside_the_scaler() -> None:
    built = method(Faulty, at=[1, 4])
    run = scaled(nonfinite="skip")
    run.fit(built, digits())
    assert run.callbacks[0].skipped == 2
    assert all(torch.isfinite(value).all() for value in built.student.state_dict().values())


def test_without_a_folder_it_stops_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no checkpoint is saved"):
        trainer(tmp_path, NonFiniteGuard()).fit(method(Faulty, at=[1]), digits())


@pytest.mark.parametrize(("how", "first"), [("stop", "true"), ("stop", "false"), ("skip", "false")])
@pytest.mark.slow
def test_two_processes_agree(tmp_path: Path, how: str, first: str) -> None:
    args = ["--model=test_non_finite.Faulty", "--model.at=[3]", f"--model.first={first}", f"--guard.nonfinite={how}"]
    args += ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.max_epochs=1", "--run.id=x"]
    args += ["--run.wandb=off", f"--run.output_dir={tmp_path}", "--run.project=p", "--run.name=n"]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "kd_lightning", "fit", BASELINE, *args]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert "Traceback" not in ended.stderr
    errors = re.findall("^error: .*$", ended.stderr, re.M)
    if how == "stop":
        assert ended.returncode == 1
        assert len(errors) == 1
        assert "train/hint is nan" in errors[0]
    else:
        assert ended.returncode == 0
        assert "guard.nonfinite: 1 of " in ended.stderr + ended.stdout
    assert all(torch.isfinite(v).all() for v in student(tmp_path / "p/n/x/last.ckpt").values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_nothing_waits_for_the_gpu(tmp_path: Path) -> None:
    class Watched(NonFiniteGuard):
        def on_train_batch_start(self, *args: object) -> None:
            torch.cuda.set_sync_debug_mode("error")
            super().on_train_batch_start(*args)
            torch.cuda.set_sync_debug_mode("default")

        def on_before_backward(self, *args: object) -> None:
            torch.cuda.set_sync_debug_mode("error")
            super().on_before_backward(*args)
            torch.cuda.set_sync_debug_mode("default")
            assert self.spoilt.is_pinned()

        def on_before_optimizer_step(self, *args: object) -> None:
            torch.cuda.set_sync_debug_mode("error")
            super().on_before_optimizer_step(*args)
            torch.cuda.set_sync_debug_mode("default")

    run = trainer(tmp_path, Watched(), accelerator="gpu", devices=1, max_epochs=2)
    run.fit(method(methods.KD), digits())
