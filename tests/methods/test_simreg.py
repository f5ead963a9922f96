"""SimReg: the loss, the head, and training without labels."""

import pytest
from helpers.factories import digits, method, trainer
from helpers.golden import student, teacher
from torch import nn

from kd_lightning.callbacks import TeacherAgreement
from kd_lightning.errors import ConfigError
from kd_lightning.functional import regression_loss
from kd_lightning.methods import SimReg


def test_golden_value() -> None:
    assert regression_loss(student(6, 5), teacher(6, 5)).item() == pytest.approx(1.7884898991, abs=1e-8)


def test_it_is_the_squared_distance_of_unit_vectors() -> None:
    ours, theirs = student(6, 5), teacher(6, 5)
    units = [x / x.norm(dim=1, keepdim=True) for x in (ours, theirs)]
    distance = (units[0] - units[1]).square().sum(dim=1).mean()
    assert regression_loss(ours, theirs).item() == pytest.approx(distance.item(), rel=1e-12)
    assert regression_loss(theirs * student(6, 1).abs(), theirs).abs() < 1e-12


def test_the_head_is_the_papers() -> None:
    widths = [layer.out_features for layer in method(SimReg).head if isinstance(layer, nn.Linear)]
    assert widths == [32, 16, 32, 64]  # student 16, teacher 64
    kinds = [type(layer) for layer in method(SimReg).head if not isinstance(layer, nn.Dropout)]
    half = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert kinds == [*half, *half]  # released: nothing between the second and the third linear layer
    assert [m.out_features for m in method(SimReg, hidden=[]).head if isinstance(m, nn.Linear)] == [64]
    assert [type(m) for m in method(SimReg, hidden=[8]).head if not isinstance(m, nn.Dropout)] == half
    with pytest.raises(ConfigError, match="hidden: "):
        method(SimReg, hidden=[0])


@pytest.mark.e2e
def test_it_learns_without_labels(tmp_path: object) -> None:
    built, run = method(SimReg), trainer(tmp_path, TeacherAgreement(), max_epochs=8)
    (before,) = run.validate(built, digits(), verbose=False)
    run.fit(built, digits(max_train_samples=None))
    (after,) = trainer(tmp_path, TeacherAgreement()).validate(built, digits(), verbose=False)
    assert after["val/cosine"] > before["val/cosine"] + 0.2
    assert after["val/neighbors"] > before["val/neighbors"] + 0.02
    assert set(after) == {"val/cosine", "val/neighbors"}
