"""TeacherFreeKD: golden values of both forms, the virtual teacher, the frozen copy, and refusals."""

from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, student, trainer, with_weights
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.functional import cross_entropy, kd_loss
from kd_lightning.methods import TeacherFreeKD
from kd_lightning.methods.teacher_free_kd import virtual_teacher_loss
from kd_lightning.mixing import Mixing

OURS, LABELS = golden.student_logits(), golden.LABELS
CHANNELS = {"channels": [4, 4, 8, 16]}


def test_golden_values_of_the_virtual_teacher() -> None:
    """The first value is that of the released code, which averages over samples and classes."""

    def totals(ours: Tensor) -> list[Tensor]:
        ce, soft = cross_entropy(ours, LABELS), virtual_teacher_loss(ours, LABELS)
        return [0.9 * ce + 0.1 * soft / 5, 0.9 * ce + 0.1 * soft]

    golden.check(totals, (OURS,), [1.376471782, 1.41358675], 0.64808991)


def test_golden_values_of_the_copy() -> None:
    def totals(ours: Tensor) -> list[Tensor]:
        ce, soft = cross_entropy(ours, LABELS), kd_loss(ours, golden.teacher_logits(), temperature=20.0)
        return [0.05 * ce + 0.95 * soft / 5, 0.05 * ce + 0.95 * soft]

    golden.check(totals, (OURS,), [0.403887451, 1.71561658], 0.38038846)


def test_the_virtual_teachers_probabilities_are_divided_by_the_temperature() -> None:
    target = torch.tensor([0.99, 0.0025, 0.0025, 0.0025, 0.0025], dtype=torch.float64)
    label = torch.tensor([0])
    for temperature, close in ((20.0, (target / 20).softmax(0)), (0.01, torch.eye(5, dtype=torch.float64)[0])):
        expected = (close * (close.clamp(min=1e-300).log() - OURS[:1].log_softmax(dim=1))).sum()
        torch.testing.assert_close(virtual_teacher_loss(OURS[:1], label, temperature=temperature), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("classes", [2, 10])
def test_it_is_finite_for_logits_10000_apart(classes: int, dtype: torch.dtype) -> None:
    ours = torch.linspace(-5000, 5000, classes)[None].to(dtype).requires_grad_()
    loss = virtual_teacher_loss(ours, torch.tensor([0]))
    loss.backward()
    assert 1000 < loss < 10000
    assert ours.grad[0, 0] < -0.05


def with_copy(folder: Path, classes: int = 10, **kwargs: object) -> TeacherFreeKD:
    with_weights(folder, "cifar_resnet8", classes, **CHANNELS)
    return method(TeacherFreeKD, checkpoint=str(folder / "cifar_resnet8.safetensors"), **kwargs)


def test_the_copy_teaches_and_stays_as_it_is(tmp_path: Path) -> None:
    built = with_copy(tmp_path, ce_weight=0.05, soft_weight=0.95, temperature=5.0)
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    found = built.eval().training_terms(Batch(images, LABELS, LABELS, LABELS))["soft"]
    torch.testing.assert_close(found, 0.95 * kd_loss(built.student(images), built.copy(images), temperature=5.0))
    found.backward()
    assert all(parameter.grad is None for parameter in built.copy.parameters())
    assert not any("copy" in name for name in built.state_dict())
    before = built.copy.fingerprint()
    trainer(tmp_path).fit(built, digits(max_train_samples=40, batch_size=20))
    assert built.copy.fingerprint() == before
    assert not built.copy.training


def test_a_copy_needs_no_labels_and_accepts_mixed_images(tmp_path: Path) -> None:
    data = digits(mixing=Mixing(mixup=1.0))
    data.labeled = False
    with_copy(tmp_path, ce_weight=0.0).check_data(data)
    with pytest.raises(ConfigError, match=r"^data.mixing: TeacherFreeKD needs one label per image"):
        method(TeacherFreeKD).check_data(digits(mixing=Mixing(mixup=1.0)))
    unlabeled = digits()
    unlabeled.labeled = False
    with pytest.raises(ConfigError, match=r"^data.labeled: TeacherFreeKD reads labels"):
        method(TeacherFreeKD, ce_weight=0.0).check_data(unlabeled)


def test_weights_that_are_no_copy_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model.checkpoint: the weights have 7 classes, .* have 10; train the copy"):
        with_copy(tmp_path, classes=7)
    with_weights(tmp_path, "cifar_resnet20")
    with pytest.raises(ConfigError, match=r"^model.checkpoint: .*cifar_resnet20"):
        method(TeacherFreeKD, student=student(), checkpoint=str(tmp_path / "cifar_resnet20.safetensors"))
    with pytest.raises(ConfigError, match=r"^model.checkpoint: nowhere.safetensors does not exist"):
        method(TeacherFreeKD, checkpoint="nowhere.safetensors")
    with pytest.raises(ConfigError, match=r"^correct: 1.5 is not between 0 and 1"):
        method(TeacherFreeKD, correct=1.5)
