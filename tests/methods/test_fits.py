"""Effects of a fit on the student: seeds, terms with weight 0, train mode, the order of the images, and learning."""

from pathlib import Path

import pytest
import torch
from helpers.factories import METHODS, digits, some_by_default, student, trainer, weights, with_weights
from helpers.factories import method as make_method
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import StudentModule
from kd_lightning.methods import KD, SP, Supervised
from kd_lightning.models import Network
from kd_lightning.randomness import sample_keys


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a teacher's weights."""
    folder = tmp_path_factory.mktemp("teacher")
    with_weights(folder, "cifar_resnet8")
    return folder / "cifar_resnet8.safetensors"


@pytest.mark.parametrize("kind", METHODS)
def test_a_seed_gives_the_same_student_whatever_its_teacher_is(kind: type[StudentModule], stored: Path) -> None:
    seed_everything(5)
    alone = weights(Supervised(student=student()))
    for source in ({"pretrained": True}, {"checkpoint": str(stored)}):
        seed_everything(5)
        name = "cifar_resnet20.digits" if "pretrained" in source else "cifar_resnet8"
        method = make_method(kind, Network(name, **source), student=student())
        assert torch.equal(weights(method), alone)


@pytest.mark.parametrize("kind", some_by_default(METHODS, "KD", "STKD"))
def test_two_fits_with_one_seed_are_bit_equal(kind: type[StudentModule], tmp_path: Path) -> None:
    def fitted(seed: int) -> Tensor:
        seed_everything(seed)
        method = make_method(kind)
        trainer(tmp_path, max_epochs=2).fit(method, digits(seed=seed))
        return weights(method)

    first = fitted(0)
    assert torch.equal(first, fitted(0))
    assert not torch.equal(first, fitted(1))


@pytest.mark.example
@pytest.mark.parametrize(
    ("kind", "silent"), [(KD, {"kd_weight": 0.0, "ce_weight": 1.0}), (SP, {"sp_weight": 0.0}), (KD, {})]
)
def test_a_silent_teacher_leaves_the_baseline(kind: type[KD | SP], silent: dict[str, float], tmp_path: Path) -> None:
    methods = []
    for make, given in ((Supervised, {}), (kind, silent)):
        seed_everything(3)
        methods.append(make_method(make, **given))
        trainer(tmp_path, max_epochs=2).fit(methods[-1], digits())
    baseline, distilled = map(weights, methods)
    assert torch.equal(baseline, distilled) == bool(silent)


def test_what_needs_no_gradient_is_left_out_of_the_optimizer_and_stays(tmp_path: Path) -> None:
    method = Supervised(student=student())
    frozen = method.student.model.conv1.weight.requires_grad_(False)
    before, run = frozen.clone(), trainer(tmp_path)
    run.fit(method, digits())
    held = [id(parameter) for group in run.optimizers[0].param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(p) for p in method.student.parameters() if p is not frozen)
    assert torch.equal(frozen, before)


class Modes(Supervised):
    """Records the mode (training or eval) of the student's modules in each step."""

    def training_terms(self, batch: Batch) -> dict[str, Tensor]:
        modes = {module.training for module in self.student.modules()}
        self.modes = [*getattr(self, "modes", []), *modes]
        return super().training_terms(batch)


def test_it_trains_in_train_mode_in_every_epoch_and_after_someone_looked_at_it(tmp_path: Path) -> None:
    method = Modes(student=student())
    for look in (lambda: None, method.eval, method.student.eval, method.student.model.layer1.eval):
        look()
        run = trainer(tmp_path, max_epochs=2)
        run.fit(method, digits())
        run.validate(method, digits(), verbose=False)
    assert method.modes == [True] * 4 * 2 * 2


class Keys(Callback):
    """Records the batches of each epoch as the method gets them."""

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


def test_training_on_digits_learns(tmp_path: Path) -> None:
    for method in (Supervised(student=student()), make_method(KD)):
        (before,) = trainer(tmp_path).validate(method, digits(), verbose=False)
        trainer(tmp_path, max_epochs=6).fit(method, digits(max_train_samples=500, batch_size=25))
        (after,) = trainer(tmp_path).validate(method, digits(), verbose=False)
        assert after["val/acc"] > before["val/acc"] + 0.4
        assert after["val/ce"] < before["val/ce"]
