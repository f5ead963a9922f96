"""Stages: their durations, what the lines say, resuming within a stage and across the switch, and refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.factories import digits, method, trainer, with_weights
from lightning.pytorch import Callback, LightningModule, Trainer

from kd_lightning.callbacks.progress import Progress
from kd_lightning.cli import main
from kd_lightning.data import Digits
from kd_lightning.distillation import Combined
from kd_lightning.distillation.run_hooks import RunHooks
from kd_lightning.distillation.trial import try_step
from kd_lightning.distillation.unreached import in_each_stage
from kd_lightning.errors import ConfigError
from kd_lightning.methods import AB, FT, SP, Supervised

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("value", "epochs", "first"),
    [(30 / 240, 240, 30), (30 / 240, 60, 8), (0.125, 2, 1), (0.9, 2, 1), (0.9, 3, 2), (0.1, 1, 1), (3, 9, 3)],
)
def test_both_stages_have_an_epoch(value: float, epochs: int, first: int) -> None:
    assert method(FT, first_stage=value).first_epochs(epochs) == first


class Seen(Callback):
    """Collects the number and the name of the stage of each epoch."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found.append((pl_module.stage, pl_module.stage_names))


def test_lines_and_bar_say_the_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("kd_lightning.distillation.stages.rank_zero_info", said.append)
    seen, progress = Seen(), Progress()
    run = trainer(tmp_path, seen, progress, max_epochs=3, enable_progress_bar=True)
    run.fit(method(FT), digits(max_train_samples=20, batch_size=10))
    assert seen.found == [(0, "paraphraser"), (1, "student"), (1, "student")]
    assert said == [
        "first_stage: epoch 1 trains only the paraphraser",
        "first_stage: the epochs from 2 on train the student and the translator",
    ]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.partition(":")[0] for line in lines] == [
        f"epoch {n}/3 ({name})" for n, (_, name) in enumerate(seen.found, 1)
    ]
    assert progress._get_train_description(1).strip() == "epoch 2/3 (student)"


def command(tmp_path: Path, name: str, run_id: str, *args: str) -> list[str]:
    """The arguments of a short run of a config of the digits: 3 epochs of 3 steps, the first in the first stage."""
    return [
        *("fit", f"--config={ROOT / 'configs/digits' / f'{name}.yaml'}", "--model.first_stage=1", f"--run.id={run_id}"),
        *("--data.max_train_samples=60", "--data.batch_size=20", "--protocol.test=false", "--trainer.max_epochs=3"),
        *("--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path}", "--run.name=staged"),
        *("--trainer.enable_progress_bar=false", "--protocol.every_n_steps=1", "--model.check_teacher=false", *args),
    ]


def last(tmp_path: Path, run_id: str) -> dict[str, Any]:
    return torch.load(tmp_path / "kd_lightning-digits/staged" / run_id / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("name", ["ft", pytest.param("ab", marks=pytest.mark.e2e)])
def test_a_run_that_is_resumed_is_bit_equal(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends within the first stage, at its end, and within the second stage."""
    main(command(tmp_path, name, "whole"))
    start = RunHooks.on_train_batch_start
    for steps in (1, 3, 5):

        def end(self: RunHooks, *args: object, steps: int = steps) -> None:
            start(self, *args)
            if self.trainer.global_step == steps:
                raise RuntimeError("the run ends here")

        with monkeypatch.context() as patch:
            patch.setattr(RunHooks, "on_train_batch_start", end)
            with pytest.raises((SystemExit, RuntimeError)):
                main(command(tmp_path, name, "parts", *(["--ckpt_path=last"] if steps > 1 else [])))
        assert last(tmp_path, "parts")["global_step"] == steps
    main(command(tmp_path, name, "parts", "--ckpt_path=last"))
    whole, parts = last(tmp_path, "whole"), last(tmp_path, "parts")
    assert whole["global_step"] == parts["global_step"] == 9
    assert all(torch.equal(value, parts["state_dict"][key]) for key, value in whole["state_dict"].items())


def test_parts_have_their_own_stages(tmp_path: Path) -> None:
    """The student is trained in all epochs, because the other terms need it."""
    built, terms = method(Combined, parts=[FT, AB, SP]), []
    built.parts["ab"].first_stage = 2
    built.on_train_epoch_end = lambda: terms.append({*built.loss_terms})
    before = built.student.model.conv1.weight.clone()
    trainer(tmp_path, max_epochs=4).fit(built, digits(max_train_samples=20, batch_size=10))
    assert terms == [
        {"ce", "sp", "ft_paraphraser", "ab"},
        {"ce", "sp", "ft", "ab"},
        {"ce", "sp", "ft"},
        {"ce", "sp", "ft"},
    ]
    assert not torch.equal(before, built.student.model.conv1.weight)
    assert built.stage_names == "student, labels"


def test_the_trial_tries_every_stage(tmp_path: Path) -> None:
    built, data, logged = method(FT), digits(), []
    trained = [name for name, value in built.named_parameters() if value.requires_grad]

    def check(data: Digits) -> None:
        logged.append(try_step(built, data))
        raise InterruptedError

    data.checks = [check]
    with pytest.raises(InterruptedError):
        trainer(tmp_path, max_epochs=2).fit(built, datamodule=data)
    assert {"train/ft", "train/ce", "train/paraphraser"} <= logged[0]
    assert trained == [name for name, value in built.named_parameters() if value.requires_grad]
    assert built.stage == 0
    assert {*built.unreached} == {(0,), (1,)}

    def broken(*args: object) -> dict[str, torch.Tensor]:
        if built.stage:
            raise ValueError("the second stage is broken")
        return FT.losses(built, *args)

    built.losses, data.checks = broken, [check]
    with pytest.raises(ConfigError, match="the second stage is broken"):
        trainer(tmp_path, max_epochs=2).fit(built, datamodule=data)


def test_layers_that_only_the_second_stage_reaches_do_not_decay(tmp_path: Path) -> None:
    """AB reads the last map before the final BatchNorm of this network is applied."""
    built, states = method(AB, first_stage=1, layers=1), []
    extra = torch.nn.Parameter(torch.ones(3))
    built.student.model.register_parameter("scale", extra)
    forward = built.with_base_terms
    built.with_base_terms = lambda terms, *args: {
        n: t * extra.mean() if n == "ce" else t for n, t in forward(terms, *args).items()
    }
    built.on_train_epoch_end = lambda: states.append(extra.detach().clone())
    trainer(tmp_path, max_epochs=2).fit(built, digits(max_train_samples=20, batch_size=10))
    assert torch.equal(states[0], torch.ones(3))
    assert not torch.equal(states[1], torch.ones(3))


def test_each_stage_in_turn_keeps_the_mode() -> None:
    built = method(FT).eval()
    assert [*in_each_stage(built)] == [(0,), (1,)]
    assert not built.training
    built.train()
    built.enter_stage(0)
    assert [built.student.training, built.translator.training, built.paraphraser.training] == [False, False, True]
    assert [*in_each_stage(method(SP))] == [(0,)]


def test_refusals(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_epochs=3)
    with pytest.raises(ConfigError, match=r"model.first_stage: 3 of 3 epochs .* would never train the student and"):
        run.fit(method(FT, first_stage=3), digits())
    with pytest.raises(ConfigError, match=r"model.probe_epochs: FT has stages of its own \(first_stage\)"):
        method(FT, student=with_weights(tmp_path, "cifar_resnet8"), probe_epochs=1)
    with pytest.raises(ConfigError, match=r"model.first_stage: 0.5 is a share of the run's epochs, and the run has no"):
        trainer(tmp_path, max_epochs=-1, max_steps=2).fit(method(FT, first_stage=0.5), digits())
    assert not method(Supervised).training_stages
