"""Agreement, KL and cosine of logits against numpy, scipy and scikit-learn, image by image."""

import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.metrics import Agreement, LogitCosine, SoftKL
from kd_lightning.metrics import faithfulness as metric


def some(classes: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    teacher = 3 * torch.randn((200, classes), generator=generator)
    student = teacher + 3 * torch.randn((200, classes), generator=generator)
    return student, teacher, torch.randint(classes, (200,), generator=generator)


def test_agreement_overall_and_where_the_teacher_errs() -> None:
    student, teacher, labels = some()
    labels[::2] = teacher.argmax(dim=1)[::2]
    rows = [(s.argmax(), t.argmax(), y) for s, t, y in zip(student.numpy(), teacher.numpy(), labels, strict=True)]
    among = [s == t for s, t, y in rows if t != y]
    expected = [np.mean([s == t for s, t, _ in rows]), np.mean(among)]
    assert 50 < len(among) < 150
    assert abs(expected[0] - expected[1]) > 1e-3
    assert [x.item() for x in metric.agreement(student, teacher, labels)] == pytest.approx(expected, abs=1e-12)
    assert metric.agreement(student.argmax(dim=1), teacher, labels).overall == expected[0]
    for errs, value in zip((False, True), expected, strict=True):
        kept = Agreement(where_teacher_errs=errs)
        for start in range(0, 200, 70):
            part = slice(start, start + 70)
            kept.update(student[part], teacher[part], labels[part])
        assert kept.compute().item() == pytest.approx(value, abs=1e-12)


def test_a_teacher_that_never_errs() -> None:
    student, teacher, _ = some()
    found = metric.agreement(student, teacher, teacher.argmax(dim=1))
    assert found.where_teacher_errs.isnan()
    assert 0 < found.overall < 1
    assert metric.agreement(student, teacher).where_teacher_errs.isnan()
    kept = Agreement(where_teacher_errs=True)
    kept.update(student, teacher, teacher.argmax(dim=1))
    assert kept.compute().isnan()
    with pytest.raises(ConfigError, match="labels: None"):
        kept.update(student, teacher)


def test_kl_and_cosine_image_by_image() -> None:
    student, teacher, _ = some()
    ours, theirs = student.double().numpy(), teacher.double().numpy()
    kl = np.mean([rel_entr(softmax(t), softmax(s)).sum() for s, t in zip(ours, theirs, strict=True)])
    turned = np.mean([rel_entr(softmax(s), softmax(t)).sum() for s, t in zip(ours, theirs, strict=True)])
    assert abs(kl - turned) > 0.01
    cosine = np.mean(
        [cosine_similarity([s - s.mean()], [t - t.mean()])[0, 0] for s, t in zip(ours, theirs, strict=True)]
    )
    for kind, function, expected in (
        (SoftKL, metric.soft_kl, kl),
        (LogitCosine, metric.logit_cosine, cosine),
    ):
        kept = kind()
        for start in range(0, 200, 70):
            kept.update(student[start : start + 70], teacher[start : start + 70])
        assert kept.compute().item() == pytest.approx(expected, abs=1e-12)
        assert function(student, teacher).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["soft_kl", "logit_cosine"])
def test_extremes(name: str) -> None:
    function = getattr(metric, name)
    student, teacher, _ = some()
    exact = function(student, teacher).item()
    for dtype in (torch.bfloat16, torch.float16):
        assert function(student.to(dtype), teacher.to(dtype)).item() == pytest.approx(exact, rel=0.02)
    assert function(student * 1e4, teacher * -1e4).isfinite()
    assert function(student[:, :2], teacher[:, :2]).isfinite()
    assert function(student[:1], teacher[:1]).isfinite()
    assert function(student[:0], teacher[:0]).isnan()
    assert function(student * math.nan, teacher).isnan()
    assert function(student[:, :1], teacher[:, :1]) == 0
    shifted = teacher + torch.arange(200)[:, None]  # softmax does not see it
    assert function(shifted, teacher).item() == pytest.approx({"soft_kl": 0, "logit_cosine": 1}[name], abs=1e-9)
    for wrong in (teacher[:, 1:], teacher[1:], teacher[:, 0]):
        with pytest.raises(ConfigError, match="logits: "):
            function(student, wrong)


def test_constant_logits_have_no_direction() -> None:
    for classes in (2, 3, 6, 7, 10):
        student, _, _ = some(classes)
        for value in (0.1, 0.7, -1e4 / 3):
            constant = torch.full_like(student, value, dtype=torch.float64)
            assert metric.logit_cosine(student, constant) == 0


def test_shapes_of_agreement() -> None:
    student, teacher, labels = some()
    for wrong in ((student, teacher[1:], labels), (student[:, 1:], teacher, None), (student, teacher, labels[1:])):
        with pytest.raises(ConfigError, match="logits: "):
            metric.agreement(*wrong)
    assert metric.agreement(student[:0], teacher[:0], labels[:0]).overall.isnan()
    assert metric.agreement(student[:1].half(), teacher[:1].bfloat16(), labels[:1]).overall in (0, 1)
