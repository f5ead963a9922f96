"""LogitDistiller: the golden value of standardised logits, their invariances, and the methods with the option."""

import inspect

import pytest
import torch
from helpers import golden
from helpers.factories import METHODS, method, shared_teacher, student, with_views
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import LogitDistiller
from kd_lightning.functional import kd_loss, standardize_logits
from kd_lightning.methods import CTKD, DKD, KD, MLKD, RLD

OURS, THEIRS = golden.student_logits(), golden.teacher_logits()


def lskd(ours: Tensor) -> Tensor:
    return kd_loss(standardize_logits(ours), standardize_logits(THEIRS), temperature=2.0)


def test_golden_value() -> None:
    golden.check(lskd, (OURS,), 0.3935318605, 0.19565639)
    golden.check(lskd, (THEIRS,), 0.0)


def test_standardised_logits_have_the_mean_0_and_the_deviation_1() -> None:
    found = standardize_logits(OURS)
    torch.testing.assert_close(found.mean(dim=1), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(found.std(dim=1), torch.ones(6, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("change", [lambda x: 7 * x, lambda x: x + torch.arange(6)[:, None]])
def test_scale_and_offset_of_the_student_have_no_effect(change: object) -> None:
    torch.testing.assert_close(lskd(change(OURS)), lskd(OURS), rtol=1e-6, atol=0)
    assert abs(kd_loss(7 * OURS, THEIRS, temperature=2.0) - kd_loss(OURS, THEIRS, temperature=2.0)) > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("logits", [[[3.0, 3.0]], [[0.0, 0.0, 0.0]], [[1e4, -1e4, 0.0]], [[1e-4, 0.0]]])
def test_value_and_gradient_are_finite(logits: list[list[float]], dtype: torch.dtype) -> None:
    given = torch.tensor(logits, dtype=dtype, requires_grad=True)
    found = standardize_logits(given)
    found.square().sum().backward()
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert given.grad.isfinite().all()


def test_the_methods_with_the_option() -> None:
    assert {kind for kind in METHODS if issubclass(kind, LogitDistiller)} == {KD, DKD, MLKD, CTKD, RLD}


@pytest.mark.parametrize("kind", [KD, DKD, MLKD, CTKD, RLD])
def test_the_option_changes_the_terms_as_if_the_networks_had_standardised_logits(kind: type[LogitDistiller]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=generator)
    batch = with_views(Batch(images, torch.arange(12) % 10, torch.arange(12), torch.arange(12)))
    network = student().eval()
    plain, standard = (method(kind, shared_teacher(), student=network, standardize_logits=x).eval() for x in (0, 1))
    assert inspect.signature(LogitDistiller).parameters["standardize_logits"].default is False
    found = standard.training_terms(batch)
    changed = {name for name, value in plain.training_terms(batch).items() if not torch.equal(value, found[name])}
    assert changed == {"instance"} if kind is MLKD else changed == {*found} - {"ce"}
    views = [
        [network.features(x, logits=True) for x in (batch.images, batch.views[0])]
        for network in (network, standard.teacher)
    ]
    views = [[each._replace(logits=standardize_logits(each.logits)) for each in seen] for seen in views]
    terms = plain.losses(*views, batch) if kind is MLKD else plain.losses(*(seen[0] for seen in views), batch)
    if kind is KD:
        terms = {"kd": 0.9 * kd_loss(*(seen[0].logits for seen in views), temperature=4.0)}
    torch.testing.assert_close({name: found[name] for name in changed}, {name: terms[name] for name in changed})
