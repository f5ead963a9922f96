"""RLD: golden values, the classes that are left out, equality with DKD for a correct teacher, and extreme logits."""

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.functional import standardize_logits
from kd_lightning.methods import RLD
from kd_lightning.methods.dkd import dkd_loss
from kd_lightning.methods.rld import rld_losses
from kd_lightning.mixing import Mixing

OURS, THEIRS, LABELS = golden.student_logits(), golden.teacher_logits(), golden.LABELS
ZERO = torch.zeros((), dtype=torch.float64)


def test_golden_values() -> None:
    golden.check(lambda ours: rld_losses(ours, THEIRS, LABELS), (OURS,), [0.6621418366, 0.4078646245], 0.30950492)


def test_golden_value_of_standardised_logits() -> None:
    def total(ours: Tensor) -> Tensor:
        logits = standardize_logits(ours), standardize_logits(THEIRS)
        confidence, masked = rld_losses(*logits, LABELS, confidence_temperature=4.0)
        return confidence + 8 * masked

    golden.check(total, (OURS,), 1.309226857, 0.6958619)


def test_it_is_dkd_where_the_teacher_is_right() -> None:
    labels = THEIRS.argmax(dim=1)
    found = rld_losses(OURS, THEIRS, labels, temperature=3.0, confidence_temperature=3.0)
    for part, weights in zip(found, ((1.0, 0.0), (0.0, 1.0)), strict=True):
        alpha, beta = weights
        torch.testing.assert_close(part, dkd_loss(OURS, THEIRS, labels, temperature=3.0, alpha=alpha, beta=beta))


def test_classes_that_the_teacher_ranks_above_the_label_are_left_out() -> None:
    teacher, labels = torch.tensor([[5.0, 3.0, 3.0, 1.0, 0.0]]).double(), torch.tensor([1])
    ours = OURS[:1].clone().requires_grad_()
    masked = rld_losses(ours, teacher, labels)[1]
    masked.backward()
    assert ours.grad[0, :3].tolist() == [0, 0, 0]  # the top class, the label, and a class that is equal to it
    assert ours.grad[0, 3:].abs().min() > 1e-3


@pytest.mark.parametrize("least", [0.0, 1.0])
def test_a_sample_with_at_most_one_class_left_teaches_no_correlation(least: float) -> None:
    teacher, ours = torch.tensor([[5.0, 4.0, least]]), torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    labels = torch.tensor([2]) if least == 0 else torch.tensor([1])
    masked = rld_losses(ours, teacher, labels)[1]
    masked.backward()
    assert masked == 0
    assert ours.grad.tolist() == [[0, 0, 0]]


def test_a_constant_on_all_logits_of_a_sample_changes_nothing() -> None:
    found = rld_losses(OURS + torch.arange(6)[:, None], THEIRS - 7, LABELS)
    torch.testing.assert_close(found, rld_losses(OURS, THEIRS, LABELS))


def test_equal_networks_have_a_loss_if_the_teacher_is_wrong() -> None:
    confidence, masked = rld_losses(THEIRS, THEIRS, LABELS)
    assert (confidence + 8 * masked).item() == pytest.approx(1.9988370438)
    torch.testing.assert_close(rld_losses(THEIRS, THEIRS, THEIRS.argmax(dim=1)), (ZERO, ZERO))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("classes", [2, 5])
def test_it_is_finite_for_logits_10000_apart(classes: int, dtype: torch.dtype) -> None:
    ours = torch.linspace(-5000, 5000, classes)[None].to(dtype).requires_grad_()
    teacher = torch.linspace(5000, -5000, classes)[None].to(dtype)
    confidence, masked = rld_losses(ours, teacher, torch.tensor([0]))
    (confidence + masked).backward()
    assert confidence.item() == pytest.approx(10000, rel=0.01)  # the target is not lost
    assert (masked == 0) if classes == 2 else (1000 < masked < 40000)
    assert ours.grad.isfinite().all()
    assert ours.grad[0, 0].item() == pytest.approx(-1, rel=0.01)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"^confidence_temperature: 0.0 is not above 0"):
        method(RLD, confidence_temperature=0.0)
    with pytest.raises(ConfigError, match=r"^data.mixing: RLD needs one label per image"):
        method(RLD).check_data(digits(mixing=Mixing(mixup=1.0)))


def test_both_terms_are_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    built = method(RLD, scd_weight=2.0, mcd_weight=3.0, temperature=5.0, confidence_temperature=2.0)
    monkeypatch.setattr(built, "ramp", lambda name: 0.25 if name == "warmup" else 0.0)
    seen = [type("Seen", (), {"logits": logits}) for logits in (OURS, THEIRS)]
    found = built.losses(*seen, type("Batch", (), {"labels": LABELS}))
    expected = rld_losses(OURS, THEIRS, LABELS, temperature=5.0, confidence_temperature=2.0)
    torch.testing.assert_close(found, {"scd": 0.5 * expected[0], "mcd": 0.75 * expected[1]})
