"""MLKD: golden values of its three terms, which view each term reads, its cross-entropy, and refusals."""

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method
from torch import Tensor
from torch.nn.functional import cross_entropy

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import MLKD
from kd_lightning.methods.mlkd import batch_correlation_loss, class_correlation_loss
from kd_lightning.mixing import Mixing
from kd_lightning.models import Features

WEAK, STRONG = golden.student_logits(), golden.student_logits(1)
TEACHER = [Features(logits=golden.teacher_logits(start)) for start in (0, 1)]
NAMES = ("instance", "class", "batch")


def terms(weak: Tensor, strong: Tensor, **kwargs: object) -> dict[str, Tensor]:
    built = method(MLKD, **{f"{name}_weight": 1.0 for name in NAMES}, **kwargs)
    labels = golden.LABELS
    return built.losses([Features(logits=weak), Features(logits=strong)], TEACHER, Batch(None, labels, None, None))


def test_golden_values() -> None:
    def three(weak: Tensor, strong: Tensor) -> list[Tensor]:
        found = terms(weak, strong)
        return [found[name] for name in NAMES]

    golden.check(three, (WEAK, STRONG), [16.12001762, 0.1630602209, 0.05295052245], 2.3414914)


def test_golden_value_of_standardised_logits() -> None:
    def instance(weak: Tensor, strong: Tensor) -> Tensor:
        return terms(weak, strong, standardize_logits=True)["instance"]

    golden.check(instance, (WEAK, STRONG), 3.931475025, 1.7400285)


def test_it_is_not_the_released_code() -> None:
    """There, a mask halves the losses of the weak view, and the temperatures 2 and 6 of the strong view read it."""
    found = terms(WEAK, STRONG)
    released = {"instance": 11.94088347, "class": 0.09783613254, "batch": 0.02647526123}
    assert all(abs(found[name] / value - 1) > 0.3 for name, value in released.items())


def test_only_the_soft_targets_and_the_labels_read_the_strong_view() -> None:
    before, after = terms(WEAK, STRONG), terms(WEAK, STRONG.roll(1, 1))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"instance", "ce"}


def test_the_cross_entropy_is_a_sum_over_both_views() -> None:
    expected = sum(cross_entropy(logits, golden.LABELS) for logits in (WEAK, STRONG))
    torch.testing.assert_close(terms(WEAK, STRONG, ce_weight=0.3)["ce"], 0.3 * expected)
    assert "ce" not in terms(WEAK, STRONG, ce_weight=0.0)


def test_the_correlations_are_those_of_all_devices() -> None:
    built = method(MLKD, temperatures=[2.0], class_weight=1.0, batch_weight=1.0)
    built.all_gather = lambda *logits: tuple(torch.cat([x, x.flip(1)]) for x in logits)
    batch = Batch(None, golden.LABELS, None, None)
    found = built.losses([Features(logits=WEAK), Features(logits=STRONG)], TEACHER, batch)
    logits = [torch.cat([x, x.flip(1)]) for x in (WEAK, TEACHER[0].logits)]
    torch.testing.assert_close(found["class"], class_correlation_loss(*logits, temperature=2.0))
    torch.testing.assert_close(found["batch"], batch_correlation_loss(*logits, temperature=2.0))


@pytest.mark.parametrize("loss", [class_correlation_loss, batch_correlation_loss])
def test_the_order_of_the_samples_has_no_effect(loss: object) -> None:
    order, teacher = torch.tensor([3, 0, 5, 1, 4, 2]), TEACHER[0].logits
    moved = loss(WEAK[order] + 3, teacher[order] - 7, temperature=2.0)
    torch.testing.assert_close(moved, loss(WEAK, teacher, temperature=2.0))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"^temperatures: the list is empty"):
        method(MLKD, temperatures=[])
    with pytest.raises(ConfigError, match=r"^temperatures\[1\]: 0.0 is not above 0"):
        method(MLKD, temperatures=[4.0, 0.0])
    with pytest.raises(ConfigError, match=r"^data.views: MLKD needs at least 2 views of each image, and 1 is too few"):
        method(MLKD).check_data(digits(views=1))
    with pytest.raises(ConfigError, match=r"^data.mixing: MLKD reads a second view, which is not mixed"):
        method(MLKD).check_data(digits(mixing=Mixing(mixup=1.0)))
