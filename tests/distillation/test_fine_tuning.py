"""Fine-tuning: a frozen backbone, epochs of linear probing, and a learning rate of the classifier."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.factories import digits, method, trainer, with_weights
from lightning.pytorch import Callback
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, StepLR

from kd_lightning import optim
from kd_lightning.cli import main
from kd_lightning.distillation.run_hooks import RunHooks
from kd_lightning.errors import ConfigError
from kd_lightning.methods import KD, SP, CoSS, Supervised
from kd_lightning.models import Network, checkpoints, classifier

ROOT = Path(__file__).parents[2]
CLASSIFIER = {"fc.weight", "fc.bias"}


class States(Callback):
    """Keeps the student's weights and statistics at the start of the run and after each epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_fit_start(self, trainer: object, pl_module: Supervised) -> None:
        self.states.append({name: value.clone() for name, value in pl_module.student.model.state_dict().items()})

    on_train_epoch_end = on_fit_start

    def changed(self, epoch: int) -> set[str]:
        """Names of the tensors that epoch number `epoch` changed."""
        before, after = self.states[epoch], self.states[epoch + 1]
        return {name for name in before if not torch.equal(before[name], after[name])}


def student(folder: Path) -> Network:
    return with_weights(folder, "cifar_resnet8")


def fit(built: Supervised, folder: Path, **kwargs: object) -> tuple[States, object]:
    states = States()
    run = trainer(folder, states, **{"max_epochs": 3, "limit_train_batches": 3, "limit_val_batches": 1, **kwargs})
    run.fit(built, digits())
    return states, run


@pytest.mark.parametrize("kind", [Supervised, KD])
def test_a_frozen_backbone_keeps_weights_and_statistics(kind: type, tmp_path: Path) -> None:
    built = method(kind, student=student(tmp_path), freeze="backbone")
    states, run = fit(built, tmp_path, max_epochs=2)
    assert states.changed(0) == states.changed(1) == CLASSIFIER
    held = [parameter for group in run.optimizers[0].param_groups for parameter in group["params"]]
    assert {id(value) for value in held} == {id(value) for value in built.student.model.fc.parameters()}
    assert built.train().student.model.fc.training
    assert not built.student.model.bn1.training


def test_probing_then_all_layers(tmp_path: Path) -> None:
    """Neither weight decay nor momentum nor BatchNorm changes the backbone before; everything is trained afterwards."""
    built = method(Supervised, student=student(tmp_path), probe_epochs=2, head_lr_scale=3.0)
    states, run = fit(built, tmp_path)
    assert states.changed(0) == states.changed(1) == CLASSIFIER
    assert states.changed(2) == {*states.states[0]}
    assert all(value.requires_grad for value in built.parameters())
    assert len(run.optimizers[0].state) == len([*built.parameters()])


def test_the_epochs_of_probing_are_those_of_a_frozen_backbone(tmp_path: Path) -> None:
    runs = []
    for kwargs in ({"freeze": "backbone"}, {"probe_epochs": 2}):
        torch.manual_seed(0)
        built = method(Supervised, student=student(tmp_path), **kwargs)
        built.lr_scheduler = lambda optimizer: StepLR(optimizer, 100)
        runs.append(fit(built, tmp_path)[0].states)
    for epoch in range(3):
        assert all(torch.equal(runs[0][epoch][name], runs[1][epoch][name]) for name in runs[0][epoch])


def test_the_change_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("kd_lightning.distillation.stages.rank_zero_info", said.append)
    fit(method(Supervised, student=student(tmp_path), probe_epochs=2), tmp_path)
    assert said == [
        "probe_epochs: epochs 1 to 2 train only the classifier of the student (650 parameters)",
        "probe_epochs: the epochs from 3 on train all layers of the student",
    ]


@pytest.mark.parametrize(
    "schedule", [lambda o: optim.WarmupCosine(o, warmup_epochs=1), lambda o: StepLR(o, 1, gamma=0.3)]
)
def test_schedules_keep_the_ratio(schedule: Callable, tmp_path: Path) -> None:
    built = method(Supervised, student=student(tmp_path), head_lr_scale=10.0, lr_scheduler=schedule)
    ratios: list[float] = []

    class Ratio(Callback):
        def on_train_batch_start(self, trainer: object, *_: object) -> None:
            first, head = trainer.optimizers[0].param_groups
            assert {id(v) for v in head["params"]} == {id(v) for v in built.classifier_parameters}
            assert len(first["params"]) + 2 == len([*built.parameters()])
            if first["lr"]:
                ratios.append(head["lr"] / first["lr"])

    run = trainer(tmp_path, Ratio(), max_epochs=3, limit_train_batches=3, limit_val_batches=0)
    run.fit(built, digits())
    assert ratios == pytest.approx([10.0] * len(ratios))
    assert len(ratios) >= 5
    optim.set_base_rate(run, 0.5)
    assert [group["initial_lr"] for group in run.optimizers[0].param_groups] == pytest.approx([0.5, 5.0])


def one_cycle(optimizer: torch.optim.Optimizer) -> OneCycleLR:
    return OneCycleLR(optimizer, max_lr=0.1, total_steps=9)


def cyclic(optimizer: torch.optim.Optimizer) -> CyclicLR:
    return CyclicLR(optimizer, base_lr=0.01, max_lr=0.1)


REFUSED: list[tuple[dict, str]] = [
    ({"head_lr_scale": 0.0}, "model.head_lr_scale: 0.0 is not above 0"),
    ({"probe_epochs": -1}, "model.probe_epochs: -1 is negative; 0 trains all layers from the start"),
    (
        {"freeze": "backbone", "probe_epochs": 1},
        "model.probe_epochs: the frozen backbone (model.freeze) is never trained;",
    ),
    (
        {"freeze": "backbone", "head_lr_scale": 2.0},
        "model.head_lr_scale: 2 is given, but a frozen backbone (model.freeze)",
    ),
    ({"freeze": "backbone", "random": True}, "model.freeze: the backbone of cifar_resnet8 has random weights; give"),
    ({"probe_epochs": 1, "random": True}, "model.probe_epochs: the backbone of cifar_resnet8 has random weights; give"),
    (
        {"freeze": "backbone", "kind": CoSS},
        "model.freeze: CoSS trains no classifier, because no term reads its logits;",
    ),
    ({"probe_epochs": 1, "kind": SP, "ce_weight": 0.0}, "model.probe_epochs: SP trains no classifier, because no term"),
    ({"head_lr_scale": 2.0, "kind": CoSS}, "model.head_lr_scale: CoSS trains no classifier, because no term reads"),
    (
        {"freeze": "backbone", "classes": 0},
        "model.freeze: Supervised trains no classifier, because the student has none;",
    ),
    (
        {"head_lr_scale": 2.0, "lr_scheduler": one_cycle},
        "model.head_lr_scale: OneCycleLR sets one learning rate for all",
    ),
    ({"head_lr_scale": 2.0, "lr_scheduler": cyclic}, "model.head_lr_scale: CyclicLR sets one learning rate for all"),
]


@pytest.mark.parametrize(("kwargs", "line"), REFUSED, ids=[line[:60] for _, line in REFUSED])
def test_what_cannot_be_trained_is_refused(kwargs: dict, line: str, tmp_path: Path) -> None:
    kwargs = {**kwargs}
    kind, classes = kwargs.pop("kind", Supervised), kwargs.pop("classes", 10)
    network = student(tmp_path) if not kwargs.pop("random", False) else Network("cifar_resnet8", num_classes=10)
    if not classes:
        network = Network("cifar_resnet8", checkpoint=str(next(tmp_path.glob("*.safetensors"))), num_classes=0)
    with pytest.raises(ConfigError) as refused:
        method(kind, student=network, **kwargs)
    assert str(refused.value).startswith(line)


def test_probing_for_the_whole_run_is_refused(tmp_path: Path) -> None:
    built = method(Supervised, student=student(tmp_path), probe_epochs=3)
    with pytest.raises(ConfigError, match=r"model.probe_epochs: 3 of 3 epochs .* would never train all layers"):
        fit(built, tmp_path)


@pytest.mark.parametrize(
    "name", ["resnet18", "deit_tiny_distilled_patch16_224", "vgg11", "convnext_atto", "levit_128s"]
)
def test_the_classifier_of_a_network(name: str) -> None:
    """All its layers, one or two, are those that timm replaces for other classes."""
    model = Network(name, num_classes=10).model
    names = {id(value): key for key, value in model.named_parameters()}
    found = {names[id(value)] for layer in classifier.layers(model) for value in layer.parameters()}
    before = {key: id(value) for key, value in model.named_parameters()}
    model.reset_classifier(7)
    assert found == {key for key, value in model.named_parameters() if before[key] != id(value)}
    model.reset_classifier(0)
    assert classifier.layers(model) == []


def command(tmp_path: Path, name: str, *args: str, network: str = "cifar_resnet8", **model_kwargs: object) -> list[str]:
    """The arguments of a short run of configs/digits/finetune.yaml whose student has some weights."""
    weights = tmp_path / "student"
    if not weights.exists():
        weights.mkdir()
        torch.manual_seed(0)
        with_weights(weights, network, **model_kwargs)
    (path,) = weights.iterdir()
    return [
        *("fit", f"--config={ROOT / 'configs/digits/finetune.yaml'}", f"--model.student.checkpoint={path}"),
        *(f"--model.student.name={network}", f"--model.student.model_kwargs={json.dumps(model_kwargs)}"),
        *("--model.probe_epochs=2", "--data.max_train_samples=120", "--data.batch_size=20", "--protocol.test=false"),
        *("--trainer.accelerator=cpu", "--run.wandb=off", f"--run.output_dir={tmp_path}", "--run.name=tuned"),
        *("--trainer.max_epochs=4", "--trainer.enable_progress_bar=false", f"--run.id={name}", *args),
    ]


def last(tmp_path: Path, name: str) -> dict:
    return torch.load(tmp_path / "kd_lightning-digits/tuned" / name / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("steps", [3, 12])
def test_a_run_that_ends_and_is_resumed_is_bit_equal(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends within the epochs of probing, after the last of them, or within the next epoch; an epoch has 6 steps."""
    each_step = "--protocol.every_n_steps=1"
    main(command(tmp_path, "whole", each_step))

    start = RunHooks.on_train_batch_start

    def end(self: RunHooks, *args: object) -> None:
        start(self, *args)
        if self.trainer.global_step == steps:
            raise RuntimeError("the run ends here")

    with monkeypatch.context() as patch:
        patch.setattr(RunHooks, "on_train_batch_start", end)
        with pytest.raises((SystemExit, RuntimeError)):
            main(command(tmp_path, "parts", each_step))
    assert last(tmp_path, "parts")["global_step"] == steps
    main(command(tmp_path, "parts", each_step, "--ckpt_path=last"))
    whole, parts = last(tmp_path, "whole"), last(tmp_path, "parts")
    assert whole["global_step"] == parts["global_step"] == 24
    assert all(torch.equal(value, parts["state_dict"][name]) for name, value in whole["state_dict"].items())


@pytest.mark.e2e
def test_two_processes_end_with_the_weights_of_one(tmp_path: Path) -> None:
    """DistributedDataParallel waits for no gradient while probing, and synchronises the backbone afterwards."""
    shared = ["--data.global_batch_size=20", "--trainer.strategy=ddp", "--trainer.precision=64-true"]
    for name, devices in (("one", 1), ("two", 2)):
        vit = {"network": "test_vit", "img_size": 8, "patch_size": 4}  # without BatchNorm, which differs by device
        args = command(tmp_path, name, *shared, f"--trainer.devices={devices}", "--data.augmentations=[]", **vit)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-m", "kd_lightning", *args], check=True, env=environment, timeout=500)
    one, two = last(tmp_path, "one")["state_dict"], last(tmp_path, "two")["state_dict"]
    start, _ = checkpoints.read(next((tmp_path / "student").iterdir()))
    for name, value in start.items():
        assert torch.allclose(one[f"student.model.{name}"], two[f"student.model.{name}"], rtol=0, atol=1e-9), name
        assert not torch.equal(one[f"student.model.{name}"].float(), value), name
