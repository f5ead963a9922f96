"""What no loss reaches is frozen before the optimizer and DistributedDataParallel get the parameters."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.factories import digits, method, trainer

from kd_lightning.cli import main
from kd_lightning.data import Digits
from kd_lightning.distillation.trial import try_step
from kd_lightning.distillation.unreached import freeze_unreached
from kd_lightning.methods import SEED, SP
from kd_lightning.models import Network


def test_a_convolution_after_the_last_map_is_frozen(tmp_path: Path) -> None:
    built = method(SP, student=Network("mobilenetv3_small_050", num_classes=10), ce_weight=0.0)
    before = {name: value.clone() for name, value in built.state_dict().items()}
    run = trainer(tmp_path, limit_train_batches=2, limit_val_batches=0)
    with pytest.warns(UserWarning, match=r"2 trainable parameters of SP receive no gradient .*conv_head\.weight"):
        run.fit(built, digits())
    frozen = {name for name, value in built.student.model.named_parameters() if not value.requires_grad}
    assert frozen == {"conv_head.weight", "conv_head.bias", "classifier.weight", "classifier.bias"}
    held = {id(parameter) for group in run.optimizers[0].param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in built.parameters() if parameter.requires_grad}
    changed = {name for name, value in built.state_dict().items() if not torch.equal(value, before[name])}
    assert changed >= {f"student.model.{name}" for name, p in built.student.model.named_parameters() if p.requires_grad}
    assert not changed & {f"student.model.{name}" for name in frozen}


def test_the_search_changes_nothing_else(tmp_path: Path) -> None:
    built, data = method(SEED), digits()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    trained = [parameter.requires_grad for parameter in built.parameters()]

    def check(data: Digits) -> None:
        generator = torch.get_rng_state()
        freeze_unreached(built, data)
        assert torch.equal(torch.get_rng_state(), generator)
        assert [parameter.requires_grad for parameter in built.parameters()] == trained
        assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())
        assert all(parameter.grad is None for parameter in built.parameters())
        raise InterruptedError

    data.checks = [check]
    with pytest.raises(InterruptedError):
        trainer(tmp_path).fit(built, data)


@pytest.mark.parametrize("looks", [try_step, freeze_unreached, None])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_has_one_dry_step_which_freezes_the_same(
    looks: Callable | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line calls one of the functions before the run's folder is created. Python has only `setup`."""
    built = method(SP, student=Network("mobilenetv3_small_050", num_classes=10), ce_weight=0.0)
    passes: list[int] = []
    forward = built.training_terms
    monkeypatch.setattr(built, "training_terms", lambda batch: (passes.append(len(batch.images)), forward(batch))[1])
    for number in (1, 2):  # the second `fit` of the same method searches again
        data = digits()
        data.checks = [partial(looks, built)] if looks else []
        trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(built, data)
        assert passes == [2, 50] * number
        frozen = {name for name, value in built.student.model.named_parameters() if not value.requires_grad}
        assert frozen == {"conv_head.weight", "conv_head.bias", "classifier.weight", "classifier.bias"}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_checkpoint_without_the_frozen_layer_is_resumed(tmp_path: Path) -> None:
    args = ["--model=SP", "--model.ce_weight=0", "--model.student.name=mobilenetv3_small_050", "--data=Digits"]
    args += ["--model.teacher={name: cifar_resnet20.digits, pretrained: true}", "--data.max_train_samples=60"]
    args += ["--data.batch_size=10", "--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path}"]
    args += ["--trainer.enable_progress_bar=false", "--trainer.limit_train_batches=2", "--protocol.test=false"]
    main(["fit", *args, "--trainer.max_epochs=1", "--run.name=a", "--run.id=a"])
    last = tmp_path / "kd_lightning/a/a/last.ckpt"
    main(["fit", *args, "--trainer.max_epochs=2", "--run.name=a", "--run.id=b", f"--ckpt_path={last}"])
    assert torch.load(last.parents[1] / "b" / "last.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.e2e
@pytest.mark.parametrize("student", ["mobilenetv3_small_050", "efficientnet_b0"])
def test_two_processes_train_without_the_frozen_layer(student: str, tmp_path: Path) -> None:
    args = ["--model=SP", "--model.ce_weight=0", f"--model.student.name={student}", "--data=Digits"]
    args += ["--model.teacher={name: cifar_resnet20.digits, pretrained: true}", "--data.max_train_samples=60"]
    args += ["--data.batch_size=10", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.devices=2"]
    args += ["--trainer.enable_progress_bar=false", "--run.wandb=off", f"--run.output_dir={tmp_path}"]
    command = [sys.executable, "-m", "kd_lightning", "fit", *args]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=400)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "trainable parameters of SP receive no gradient" in ended.stderr + ended.stdout
