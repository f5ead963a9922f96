"""teacher/acc: measured once before the first step, without an effect on training; a warning if it is low."""

import warnings
from pathlib import Path

import pytest
import torch
from helpers.factories import digits, student, trainer, weights, whole, with_weights
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import Logger
from torch import Tensor

from kd_lightning.callbacks import TeacherAccuracy
from kd_lightning.data import RandomCrop
from kd_lightning.methods import KD, SP
from kd_lightning.models import Network, Reads


class Record(Logger):
    """Records the logged values in order, with the student's weights at that time."""

    name, version = "record", 0

    def __init__(self, method: KD) -> None:
        super().__init__()
        self.method, self.seen = method, []

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.seen += [(name, value, step, weights(self.method)) for name, value in metrics.items()]


def fit(folder: Path, method: KD, *, epochs: int = 1, **data: object) -> list[tuple[str, float, int, Tensor]]:
    record = Record(method)
    run = trainer(
        folder, TeacherAccuracy(), limit_train_batches=1, max_epochs=epochs, logger=record, log_every_n_steps=1
    )
    run.fit(method, digits(**data))
    return record.seen


@pytest.fixture
def middling() -> Network:
    """Return a teacher with some errors, so that its accuracy differs between sets of images."""
    network = Network("cifar_resnet20.digits", pretrained=True)
    with torch.no_grad():
        noise = torch.randn(network.model.fc.weight.shape, generator=torch.Generator().manual_seed(0))
        network.model.fc.weight += 1.5 * network.model.fc.weight.std() * noise
    return network


@pytest.mark.parametrize(("val_split", "split"), [(0.1, "val"), (0, "train")])
def test_it_is_the_accuracy_before_the_first_step(
    middling: Network, tmp_path: Path, val_split: float, split: str
) -> None:
    given = {"val_split": val_split, "augmentations": [RandomCrop(4)], "eval_batch_size": 64}
    method, data = KD(teacher=middling, student=student()), digits(**given)
    data.setup("fit")
    images, labels = whole(data.datasets[split]), data.datasets[split].labels  # not augmented
    with torch.no_grad():
        right = (middling.eval()(images).argmax(1) == labels).double().mean().item()
    assert 0.3 < right < 0.97
    before = weights(method)
    seen = fit(tmp_path, method, epochs=2, **given)
    name, value, step, then = seen[0]
    assert (name, step) == ("teacher/acc", 0)
    assert value == pytest.approx(right)
    assert torch.equal(then, before)
    assert [name for name, *_ in seen].count("teacher/acc") == 1
    assert not torch.equal(seen[-1][-1], before)


def test_it_can_be_switched_off(middling: Network, tmp_path: Path) -> None:
    seen = fit(tmp_path, KD(teacher=middling, student=student(), check_teacher=False))
    assert "train/loss" in {name for name, *_ in seen}
    assert "teacher/acc" not in {name for name, *_ in seen}


def test_it_is_not_measured_of_classes_that_are_not_the_datas(tmp_path: Path) -> None:
    seven = with_weights(tmp_path, "cifar_resnet8", classes=7)
    assert "teacher/acc" not in {name for name, *_ in fit(tmp_path, SP(teacher=seven, student=student()))}


def rolled(rows: int) -> Network:
    network = Network("cifar_resnet20.digits", pretrained=True)
    with torch.no_grad():
        for parameter in (network.model.fc.weight, network.model.fc.bias):
            parameter.copy_(parameter.roll(rows, 0))
    return network


def test_a_wrong_class_order_is_warned_of_and_a_right_one_is_not(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"^teacher/acc is .*chance is 10.0%.*class order.*teacher.mean"):
        fit(tmp_path, KD(teacher=rolled(1), student=student()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, KD(teacher=rolled(0), student=student()))
    assert not [warning for warning in caught if "teacher/acc" in str(warning.message)]


@pytest.mark.parametrize(("right", "warned"), [(0.14, True), (0.16, False)])
def test_the_line_is_five_points_above_chance(
    right: float, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, data = KD(teacher=rolled(0), student=student()), digits(val_split=100)
    data.setup("fit")
    labels = data.datasets["val"].labels
    answers = torch.where(torch.arange(100) < round(100 * right), labels, (labels + 1) % 10)
    logits = torch.nn.functional.one_hot(answers, 10).float()
    real = method.teacher_features

    def answered(images: Tensor, reads: Reads) -> object:
        seen = real(images, reads)
        return seen._replace(logits=logits) if len(images) == 100 else seen

    monkeypatch.setattr(method, "teacher_features", answered)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert fit(tmp_path, method, val_split=100)[0][1] == pytest.approx(right)
    assert bool([warning for warning in caught if "teacher/acc" in str(warning.message)]) == warned


def test_it_moves_no_random_number_of_the_students(middling: Network, tmp_path: Path) -> None:
    def trained(check_teacher: bool) -> Tensor:
        seed_everything(0)
        dropping = Network("resnet10t", num_classes=10, model_kwargs={"drop_rate": 0.5, "channels": [8] * 4})
        method = KD(teacher=middling, student=dropping, check_teacher=check_teacher)
        fit(tmp_path, method)
        return weights(method)

    assert torch.equal(trained(True), trained(False))
