"""FunctionMatching: KD without temperature and labels, on mixed images that both networks see."""

from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, shared_teacher, student, trainer
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.functional import kd_loss
from kd_lightning.methods import FunctionMatching
from kd_lightning.mixing import Mixing
from kd_lightning.randomness import sample_keys

TEACHER = golden.teacher_logits()


def test_golden_value() -> None:
    loss = (lambda ours: kd_loss(ours, TEACHER, temperature=1.0), (golden.student_logits(),))
    golden.check(*loss, 0.6881614673, 0.23464598)


def terms(labels: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    built = method(FunctionMatching, shared_teacher(), student=student()).eval()
    images = torch.arange(12 * 3 * 64).remainder(251).to(torch.uint8).view(12, 3, 8, 8)
    batch = Mixing(mixup=1.0)(Batch(images, labels, torch.arange(12), sample_keys(0, 0, torch.arange(12))))
    found = built.training_terms(batch)
    expected = kd_loss(built.student(batch.images), built.teacher(batch.images), temperature=1.0)
    torch.testing.assert_close(found, {"kd": expected})
    return found


def test_the_value_does_not_depend_on_labels() -> None:
    assert torch.equal(terms(torch.arange(12) % 10)["kd"], terms(torch.full((12,), -1))["kd"])
    assert not method(FunctionMatching).needs_labels


def test_it_trains_without_labels_and_warns_only_if_no_images_are_mixed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built, data = method(FunctionMatching), digits(mixing=Mixing(mixup=1.0))
    data.labeled = False
    before = built.student.fingerprint()
    trainer(tmp_path).fit(built, data)
    assert built.student.fingerprint() != before
    with pytest.warns(UserWarning, match="data.mixing: FunctionMatching needs mixed images"):
        method(FunctionMatching).check_data(digits())
