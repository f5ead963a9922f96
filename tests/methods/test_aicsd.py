"""AICSD: golden values, the defects of the released code, weights that change with the epoch, and refusals."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import golden
from helpers.factories import digits, method, shared_teacher, student, trainer, with_weights
from scipy.special import log_softmax
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import AICSD
from kd_lightning.methods.aicsd import class_gram_loss, inter_class_loss


def student_maps(features: Tensor) -> Tensor:
    return F.conv2d(features, golden.weight(1, 5, 8, 1, 1))


def teacher_maps() -> Tensor:
    return F.conv2d(golden.teacher_maps(2, 6, 4, 4), golden.weight(2, 5, 6, 1, 1))


@pytest.mark.parametrize(
    ("loss", "value", "gradient"),
    [(inter_class_loss, 0.02820581427, 0.021570595), (class_gram_loss, 0.3547099389, 0.063043691)],
)
def test_golden_values(loss: object, value: float, gradient: float) -> None:
    features = golden.student_maps(2, 8, 4, 4)
    golden.check(lambda x: loss(student_maps(x), teacher_maps()), (features,), value, gradient)


def test_the_divergences_are_neither_of_columns_nor_mirrored() -> None:
    student, teacher = golden.student_maps(2, 3, 4, 4), golden.teacher_maps(2, 3, 4, 4)

    def reference(maps: Tensor, *, axis: tuple[int, ...] | int, mirrored: bool = False) -> Tensor:
        log_p = torch.tensor(log_softmax(maps.numpy(), axis=axis)).flatten(2)
        matrix = (log_p.exp()[:, :, None] * (log_p[:, :, None] - log_p[:, None])).sum(3)
        matrix = matrix.triu() + matrix.triu(1).mT if mirrored else matrix
        return matrix / matrix.norm(dim=2, keepdim=True)

    def expected(**kwargs: object) -> float:
        return F.mse_loss(*(reference(maps, **kwargs) for maps in (student, teacher))).item()

    found = inter_class_loss(student, teacher).item()
    assert found == pytest.approx(expected(axis=(2, 3)), rel=1e-12)
    assert abs(found - expected(axis=2)) > 0.01 * found
    assert abs(found - expected(axis=(2, 3), mirrored=True)) > 0.01 * found


def test_invariances() -> None:
    student, teacher = student_maps(golden.student_maps(2, 8, 4, 4)), teacher_maps()
    shifted = student + torch.arange(5.0).view(5, 1, 1)
    torch.testing.assert_close(inter_class_loss(shifted, teacher), inter_class_loss(student, teacher))
    torch.testing.assert_close(class_gram_loss(7 * student, teacher), class_gram_loss(student, teacher))
    larger = F.interpolate(teacher, scale_factor=2)  # every position four times: the distributions stay alike
    torch.testing.assert_close(inter_class_loss(student, larger), inter_class_loss(student, teacher))


def test_equal_class_maps_give_no_noise() -> None:
    flat = torch.zeros(2, 5, 4, 4, requires_grad=True)
    inter_class_loss(flat, teacher_maps().float()).backward()
    assert flat.grad.abs().max() < 1e-3


def test_the_chunks_of_many_classes_have_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = inter_class_loss(student_maps(golden.student_maps(2, 8, 4, 4)), teacher_maps())
    monkeypatch.setattr("kd_lightning.functional._FLOATS", 25)
    chunked = inter_class_loss(student_maps(golden.student_maps(2, 8, 4, 4)), teacher_maps())
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=0)


def images(count: int = 6) -> Batch:
    rows = torch.arange(count)
    pixels = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(pixels, rows, rows, rows)


def test_soft_targets_come_first_and_labels_later(monkeypatch: pytest.MonkeyPatch) -> None:
    built = method(AICSD, adaptive=True, class_gram_weight=1.0).eval()
    constant = method(AICSD, built.teacher, student=built.student, class_gram_weight=1.0).eval()
    full = constant.training_terms(images())
    for share in (0.0, 0.25, 0.9):
        monkeypatch.setattr(AICSD, "epoch_share", share)
        for name, term in built.training_terms(images()).items():
            torch.testing.assert_close(term, ((1 - share) if name == "kd" else share) * full[name])


def test_the_share_of_the_epochs_is_that_of_the_run(tmp_path: Path) -> None:
    shares = []

    class Watched(AICSD):
        def on_train_epoch_start(self) -> None:
            super().on_train_epoch_start()
            shares.append(self.epoch_share.item())

    built = method(Watched, adaptive=True)
    trainer(tmp_path, max_epochs=4).fit(built, digits(max_train_samples=20, batch_size=10))
    assert shares == [0, 0.25, 0.5, 0.75]


def test_refusals(tmp_path: Path) -> None:
    small = AICSD(student=student(), teacher=shared_teacher())
    with pytest.raises(
        ConfigError, match=r"AICSD needs .* at least 16 positions, but a map of cifar_resnet8 has 2 x 2"
    ):
        trainer(tmp_path).fit(small, digits())
    with pytest.raises(ConfigError, match=r"num_classes: AICSD .* 2 classes have only one pair"):
        method(AICSD, student=student(2))
    with pytest.raises(ConfigError, match=r"^temperature: 0 is not above 0"):
        method(AICSD, temperature=0)
    with pytest.raises(ConfigError, match="kd_weight: 0 is given, but with adaptive"):
        method(AICSD, adaptive=True, kd_weight=0.0)
    convnext = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}
    teacher = with_weights(tmp_path, "convnext_atto", **convnext)
    with pytest.raises(ConfigError, match="convnext_atto: this network has no class maps"):
        method(AICSD, teacher).training_terms(images())
