"""StudentModule: the training step, evaluation and predictions."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.factories import digits, student, trainer, whole
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.callbacks import TeacherAgreement
from kd_lightning.distillation import StudentModule
from kd_lightning.errors import ConfigError
from kd_lightning.methods import KD, Supervised
from kd_lightning.models import Features, Network
from kd_lightning.optim import WarmupCosine


@pytest.fixture
def teacher() -> Network:
    return Network("cifar_resnet20.digits", pretrained=True)


class Terms(StudentModule):
    """Has two terms whose gradients are known."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.set_weights(one_weight=1.0)

    def losses(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        weight = self.student.model.fc.weight
        return {"one": weight.sum(), "two": 3 * weight.square().sum()}


def test_the_sum_of_the_terms_is_minimised_and_each_is_logged(tmp_path: Path) -> None:
    method = Terms(
        student=student(),
        ce_weight=0,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
    )
    before = method.student.model.fc.weight.detach().clone()
    logger = CSVLogger(tmp_path, name="", version="")
    trainer(tmp_path, limit_train_batches=1, logger=logger, log_every_n_steps=1).fit(method, digits())
    torch.testing.assert_close(method.student.model.fc.weight.detach(), before - 0.5 * (1 + 6 * before))
    header, row, *_ = (line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines())
    values = {name: float(value) for name, value in zip(header, row, strict=True) if value}
    assert values["train/one"] == pytest.approx(float(before.sum()), rel=1e-4)
    assert values["train/two"] == pytest.approx(float(3 * before.square().sum()), rel=1e-4)
    assert values["train/loss"] == pytest.approx(values["train/one"] + values["train/two"], rel=1e-4)
    assert values["train/lr"] == 0.5


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluating_equals_an_independent_computation_over_uneven_batches(
    teacher: Network, tmp_path: Path, stage: str
) -> None:
    method = KD(teacher=teacher, student=student())
    data = digits(eval_batch_size=100)  # the last batches of 144 and 360 images are smaller
    (metrics,) = getattr(trainer(tmp_path, TeacherAgreement()), stage)(method, data, verbose=False)
    split = {"validate": "val", "test": "test"}[stage]
    images, labels = whole(data.datasets[split]), data.datasets[split].labels
    with torch.no_grad():
        logits, targets = method.student.eval()(images), teacher(images).argmax(1)
    assert metrics[f"{split}/acc"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert metrics[f"{split}/ce"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert metrics[f"{split}/agreement"] == pytest.approx((logits.argmax(1) == targets).float().mean().item())


def test_predictions_are_the_students(tmp_path: Path) -> None:
    method, data = Supervised(student=student()), digits(eval_batch_size=100)
    parts = trainer(tmp_path).predict(method, data)
    images = whole(data.datasets["test"])
    with torch.no_grad():
        seen = method.student.eval().features(images, embedding=True, logits=True)
    torch.testing.assert_close(torch.cat([part.logits for part in parts]), seen.logits)
    torch.testing.assert_close(torch.cat([part.embedding for part in parts]), seen.embedding)
    assert torch.equal(torch.cat([part.indices for part in parts]), data.datasets["test"].indices)
    assert torch.equal(torch.cat([part.labels for part in parts]), data.datasets["test"].labels)


@pytest.mark.parametrize("schedule", [WarmupCosine, torch.optim.lr_scheduler.ConstantLR])
@pytest.mark.parametrize(("scaling", "rate"), [("linear", 0.8), ("sqrt", 0.4)])
def test_the_learning_rate_is_scaled_to_what_a_step_learns_from(
    tmp_path: Path, scaling: str, rate: float, schedule: type
) -> None:
    """The rate is 0.2 for 25 images; a step has two accumulated batches of 50 images."""
    method = Supervised(
        student=student(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.2),
        lr_scheduler=lambda optimizer: schedule(optimizer),
        lr_batch_size=25,
        lr_scaling=scaling,
    )
    run = trainer(tmp_path, accumulate_grad_batches=2)
    run.fit(method, digits())
    assert method.global_batch == 100
    assert run.optimizers[0].param_groups[0]["initial_lr"] == pytest.approx(rate)
    assert [*run.lr_scheduler_configs[0].scheduler.base_lrs] == [pytest.approx(rate)]


def test_a_batch_to_scale_from_is_positive() -> None:
    with pytest.raises(ConfigError, match="lr_batch_size: 0 is not above 0"):
        Supervised(student=student(), lr_batch_size=0)


class Counting(Supervised):
    """Logs a value per epoch in addition to a value per step."""

    def losses(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        self.log("train/images", float(len(batch.images)), on_step=False, on_epoch=True, reduce_fx="sum")
        self.log("train/number", torch.tensor(float(self.global_step)))
        return super().losses(student, batch)


def test_values_of_the_epoch_are_of_all_its_steps(tmp_path: Path) -> None:
    """Values of a step are logged only if they are read; values of an epoch are always logged."""
    run = trainer(tmp_path, log_every_n_steps=4)
    run.fit(Counting(student=student()), digits(batch_size=10))
    assert run.callback_metrics["train/images"] == 100


def test_a_callback_of_the_users_finds_each_steps_values(tmp_path: Path) -> None:
    class Reads(Callback):
        seen: list[float] = []

        def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
            self.seen.append(trainer.callback_metrics["train/number"].item())

    trainer(tmp_path, Reads(), log_every_n_steps=4).fit(Counting(student=student()), digits(batch_size=10))
    assert Reads.seen == [*map(float, range(10))]


class RecordsOnce(Terms):
    """Records a value in its first step only."""

    def losses(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        if not self.trainer.global_step:
            self.record("first", lambda: torch.tensor(1.0))
        return super().losses(student, batch)


def test_a_recorded_value_belongs_to_its_step(tmp_path: Path) -> None:
    method = RecordsOnce(student=student(), ce_weight=0)
    trainer(tmp_path, limit_train_batches=1).fit(method, digits())
    assert method.recorded == {"first": torch.tensor(1.0)}
    trainer(tmp_path, limit_train_batches=2, log_every_n_steps=1).fit(method, digits())
    assert method.recorded == {}
