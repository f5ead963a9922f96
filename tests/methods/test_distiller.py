"""The teacher's contract: a constant, whatever anyone does to it."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tiny import digits, student, trainer, with_weights
from torch import Tensor, nn

from kd_lightning.errors import ConfigError
from kd_lightning.methods import KD, SP
from kd_lightning.models import Network

IMAGES = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def teacher(tmp_path: Path) -> Network:
    """BatchNorm, dropout and stochastic depth in one network."""
    network = with_weights(tmp_path, "tf_efficientnet_lite0", drop_rate=0.5, drop_path_rate=0.5)
    kinds = {type(module).__name__ for module in network.modules()}
    assert {"DropPath"} <= kinds
    assert any("BatchNorm" in kind for kind in kinds)
    return network


def state(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def unchanged(method: KD, before: dict[str, Tensor], logits: Tensor) -> bool:
    same = all(torch.equal(value, before[name]) for name, value in method.teacher.state_dict().items())
    return same and torch.equal(method.teach(IMAGES, logits=True).logits, logits)


def test_it_is_a_constant_through_training_validation_and_anyones_train(teacher: Network, tmp_path: Path) -> None:
    method, before = KD(teacher=teacher, student=student()), state(teacher)
    logits = method.teach(IMAGES, logits=True).logits
    first, second = (trainer(tmp_path, limit_train_batches=2) for _ in range(2))
    for step in (
        lambda: first.fit(method, digits()),
        lambda: first.validate(method, digits(), verbose=False),
        lambda: second.fit(method, digits()),
        lambda: method.train(),
        lambda: method.teacher.train(),
        lambda: method.teacher.model.train(),
        lambda: method.teacher.model.blocks[1].train(),
    ):
        step()
        assert unchanged(method, before, logits)
        assert not any(module.training for module in method.teacher.modules())
    assert method.student.training
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    held = {id(parameter) for group in second.optimizers[0].param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in method.student.parameters()}


def test_it_gives_no_gradient(teacher: Network) -> None:
    method = KD(teacher=teacher, student=student())
    seen = method.teach(IMAGES, maps=2, embedding=True, logits=True)
    assert not any(tensor.requires_grad for tensor in (*seen.maps, seen.embedding, seen.logits))
    assert not seen.logits.is_inference()  # such a tensor could not be saved for the student's backward


def test_it_is_out_of_the_checkpoint_and_loading_is_strict(teacher: Network, tmp_path: Path) -> None:
    method = KD(teacher=teacher, student=student())
    run = trainer(tmp_path, limit_train_batches=1)
    run.fit(method, digits())
    run.save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert not any("teacher" in name for name in saved["state_dict"])
    assert {name.split(".")[0] for name in saved["state_dict"]} == {"student"}
    again = KD.load_from_checkpoint(tmp_path / "run.ckpt", teacher=teacher, student=student())
    for name, value in method.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    for spoil, word in ((lambda keys: keys.pop("student.model.fc.bias"), "missing"), (typo, "not expected")):
        broken = torch.load(tmp_path / "run.ckpt", weights_only=True)
        spoil(broken["state_dict"])
        torch.save(broken, tmp_path / "broken.ckpt")
        with pytest.raises(ConfigError, match=word) as refused:
            KD.load_from_checkpoint(tmp_path / "broken.ckpt", teacher=teacher, student=student())
        assert "\n" not in str(refused.value)


def typo(keys: dict[str, Tensor]) -> None:
    keys["student.modle.fc.bias"] = keys["student.model.fc.bias"]


def test_ddp_is_told_to_leave_all_of_it_out(teacher: Network) -> None:
    method = KD(teacher=teacher, student=student())
    ignored = {*method._ddp_params_and_buffers_to_ignore}
    everything = {*dict(method.named_parameters()), *dict(method.named_buffers())}
    assert ignored == {name for name in everything if name.startswith("teacher.")}
    assert len(ignored) > 200


def logged(folder: Path) -> list[str]:
    text = (folder / "metrics.csv").read_text() if (folder / "metrics.csv").exists() else ""
    header, *rows = text.splitlines() or [""]
    column = header.split(",").index("teacher/acc") if "teacher/acc" in header else None
    return [row.split(",")[column] for row in rows if row.split(",")[column]] if column is not None else []


def fit_and_log(folder: Path, method: KD, **data: object) -> list[str]:
    run = trainer(folder, limit_train_batches=1, max_epochs=2, logger=CSVLogger(folder, name="", version=""))
    run.fit(method, digits(**data))
    return logged(folder)


def test_its_accuracy_is_measured_once_before_the_first_step(tmp_path: Path) -> None:
    trained = Network("cifar_resnet20.digits", pretrained=True)
    data = digits()
    data.setup("fit")
    held_out = data.sets["val"]
    right = (trained.eval()(held_out.images).argmax(1) == held_out.labels).float().mean().item()
    assert right > 0.9
    (value,) = fit_and_log(tmp_path / "a", KD(teacher=trained, student=student()))
    assert float(value) == pytest.approx(right)
    assert len(fit_and_log(tmp_path / "b", KD(teacher=trained, student=student()), val_split=0)) == 1
    assert fit_and_log(tmp_path / "c", KD(teacher=trained, student=student(), check_teacher=False)) == []


def test_a_teacher_with_a_wrong_class_order_is_warned_of(tmp_path: Path) -> None:
    trained = Network("cifar_resnet20.digits", pretrained=True)
    with torch.no_grad():
        trained.model.fc.weight.copy_(trained.model.fc.weight.roll(1, 0))
        trained.model.fc.bias.copy_(trained.model.fc.bias.roll(1))
    with pytest.warns(UserWarning, match=r"teacher/acc is .*chance is 10.0%"):
        fit_and_log(tmp_path, KD(teacher=trained, student=student()))


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher: cifar_resnet8 has no weights"):
        SP(teacher=Network("cifar_resnet8"), student=student())
    seven = with_weights(tmp_path, "cifar_resnet8", classes=7)
    with pytest.raises(ConfigError, match=r"teacher.num_classes: .* 7 classes"):
        KD(teacher=seven, student=student())
    path = tmp_path / "cifar_resnet8.safetensors"
    fresh = Network("cifar_resnet8", checkpoint=str(path), num_classes=10)
    with pytest.raises(ConfigError, match=r"teacher.num_classes: .*random"):
        KD(teacher=fresh, student=student())
    for other in (seven, fresh):  # SP does not read logits: any classes will do, and agreement means nothing
        method = SP(teacher=other, student=student())
        run = trainer(tmp_path, limit_train_batches=1)
        run.fit(method, digits())
        assert "val/acc" in run.callback_metrics
        assert "val/agreement" not in run.callback_metrics


def test_any_part_that_trains_is_in_the_optimizer(teacher: Network, tmp_path: Path) -> None:
    class WithAdapter(SP):
        def __init__(self, **kwargs: object) -> None:
            super().__init__(**kwargs)
            self.adapter = nn.Linear(16, 4)

    method = WithAdapter(teacher=teacher, student=student())
    run = trainer(tmp_path, limit_train_batches=1)
    run.fit(method, digits())
    held = {id(parameter) for group in run.optimizers[0].param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in (*method.student.parameters(), *method.adapter.parameters())}
