"""NKD: golden values, the label left out of the second part, extreme logits and refusals."""

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method

from kd_lightning.errors import ConfigError
from kd_lightning.methods import NKD
from kd_lightning.methods.nkd import nkd_loss
from kd_lightning.mixing import Mixing

OURS, THEIRS, LABELS = golden.student_logits(), golden.teacher_logits(), golden.LABELS


def test_golden_values() -> None:
    cifar = {"temperature": 3.0, "gamma": 3.5}
    golden.check(lambda ours: nkd_loss(ours, THEIRS, LABELS, **cifar), (OURS,), 42.27364899, 1.0570606)
    golden.check(lambda ours: nkd_loss(ours, THEIRS, LABELS), (OURS,), 1.8970389366)
    golden.check(lambda ours: nkd_loss(ours, THEIRS, LABELS, gamma=0.0), (OURS,), 0.2404655555)
    golden.check(lambda ours: nkd_loss(ours, THEIRS, LABELS), (THEIRS,), 1.0809358954)


def test_the_label_has_no_part_in_the_softmaxes_of_the_others() -> None:
    """A released function for segmentation keeps it there: the value would change with the label's logit."""
    moved, parts = OURS.clone(), []
    moved[torch.arange(6), LABELS] += 5
    for ours in (OURS, moved):
        parts.append(nkd_loss(ours, THEIRS, LABELS) - nkd_loss(ours, THEIRS, LABELS, gamma=0.0))
    torch.testing.assert_close(*parts)


def test_a_constant_on_all_logits_of_a_sample_changes_nothing() -> None:
    moved = nkd_loss(OURS + torch.arange(6)[:, None], THEIRS - 7, LABELS)
    torch.testing.assert_close(moved, nkd_loss(OURS, THEIRS, LABELS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_target_10000_below_the_others_is_not_lost(dtype: torch.dtype) -> None:
    ours = torch.tensor([[-10000.0, 0.0, 1.0]], dtype=dtype, requires_grad=True)
    found = nkd_loss(ours, torch.tensor([[20.0, 0.0, 1.0]]), torch.tensor([0]))
    found.backward()
    assert found.item() == pytest.approx(10000, rel=0.01)
    assert ours.grad[0, 0].item() == pytest.approx(-1, rel=0.01)


def test_the_teachers_probability_has_no_temperature() -> None:
    """The first part has a temperature of 1, whatever that of the second part is."""
    hot, cold = (nkd_loss(OURS, THEIRS, LABELS, gamma=0.0, temperature=t) for t in (8.0, 0.5))
    torch.testing.assert_close(hot, cold)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"^gamma: -1.0 is negative"):
        method(NKD, gamma=-1.0)
    with pytest.raises(ConfigError, match=r"^data.mixing: NKD needs one label per image"):
        method(NKD).check_data(digits(mixing=Mixing(cutmix=1.0)))
