"""The one training step, how a student is judged, and that seeds decide."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from tiny import digits, student, trainer
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.methods import KD, SP, StudentModule, Supervised
from kd_lightning.models import Network
from kd_lightning.randomness import sample_keys


@pytest.fixture
def teacher() -> Network:
    return Network("cifar_resnet20.digits", pretrained=True)


class Terms(StudentModule):
    """Two terms whose gradients are known."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        weight = self.student.model.fc.weight
        return {"one": weight.sum(), "two": 3 * weight.square().sum()}


def test_the_sum_of_the_terms_is_minimised_and_each_is_logged(tmp_path: Path) -> None:
    method = Terms(
        student=student(),
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
def test_judging_equals_an_independent_computation_over_uneven_batches(
    teacher: Network, tmp_path: Path, stage: str
) -> None:
    method = KD(teacher=teacher, student=student())
    data = digits(eval_batch_size=100)  # 144 and 360 images: the last batch is smaller
    (metrics,) = getattr(trainer(tmp_path), stage)(method, data, verbose=False)
    split = {"validate": "val", "test": "test"}[stage]
    images, labels = data.sets[split].images, data.sets[split].labels
    with torch.no_grad():
        logits, targets = method.student.eval()(images), teacher(images).argmax(1)
    assert metrics[f"{split}/acc"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert metrics[f"{split}/ce"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert metrics[f"{split}/agreement"] == pytest.approx((logits.argmax(1) == targets).float().mean().item())


def test_predictions_are_the_students(tmp_path: Path) -> None:
    method, data = Supervised(student=student()), digits(eval_batch_size=100)
    parts = trainer(tmp_path).predict(method, data)
    images = data.sets["test"].images
    with torch.no_grad():
        seen = method.student.eval().features(images, embedding=True, logits=True)
    torch.testing.assert_close(torch.cat([part.logits for part in parts]), seen.logits)
    torch.testing.assert_close(torch.cat([part.embedding for part in parts]), seen.embedding)
    assert torch.equal(torch.cat([part.indices for part in parts]), data.sets["test"].indices)
    assert torch.equal(torch.cat([part.labels for part in parts]), data.sets["test"].labels)


@pytest.mark.parametrize("make", [Supervised, KD, SP])
def test_a_seed_gives_the_same_student_whatever_its_teacher_is(make: type[StudentModule]) -> None:
    seed_everything(5)
    alone = student().state_dict()
    seed_everything(5)
    with_teacher = {} if make is Supervised else {"teacher": Network("cifar_resnet20.digits", pretrained=True)}
    method = make(student=student(), **with_teacher)
    assert all(torch.equal(value, alone[name]) for name, value in method.student.state_dict().items())


@pytest.mark.parametrize("make", [Supervised, KD, SP])
def test_two_fits_with_one_seed_are_bit_equal(make: type[StudentModule], teacher: Network, tmp_path: Path) -> None:
    def weights(seed: int) -> Tensor:
        seed_everything(seed)
        method = make(student=student(), **({} if make is Supervised else {"teacher": teacher}))
        trainer(tmp_path, max_epochs=2).fit(method, digits(seed=seed))
        return torch.cat([parameter.detach().flatten() for parameter in method.student.parameters()])

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


class Keys(Callback):
    """The keys and indices of the batches of each epoch, as the method sees them."""

    def __init__(self) -> None:
        self.seen: dict[int, list[Batch]] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self.seen.setdefault(trainer.current_epoch, []).append(batch)


def test_each_epoch_of_a_run_has_its_own_order_and_augmentation(tmp_path: Path) -> None:
    watch = Keys()
    trainer(tmp_path, watch, max_epochs=3).fit(Supervised(student=student()), digits(seed=4))
    for number, batches in watch.seen.items():
        for batch in batches:
            assert torch.equal(batch.keys, sample_keys(4, number, batch.indices))
    orders = [torch.cat([batch.indices for batch in batches]).tolist() for batches in watch.seen.values()]
    assert orders[0] != orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])


def test_training_on_digits_learns(teacher: Network, tmp_path: Path) -> None:
    for method in (Supervised(student=student()), KD(teacher=teacher, student=student())):
        (before,) = trainer(tmp_path).validate(method, digits(), verbose=False)
        trainer(tmp_path, max_epochs=6).fit(method, digits(train_images=None))
        (after,) = trainer(tmp_path).validate(method, digits(), verbose=False)
        assert after["val/acc"] > before["val/acc"] + 0.4
        assert after["val/ce"] < before["val/ce"]
