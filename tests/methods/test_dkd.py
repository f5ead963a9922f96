"""DKD: golden values, its two parts, KD as a special case, extreme logits, warm-up and refusals."""

from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, student, trainer, with_weights
from lightning.pytorch import Callback, LightningModule, Trainer

from kd_lightning.errors import ConfigError
from kd_lightning.functional import kd_loss
from kd_lightning.methods import DKD
from kd_lightning.methods.dkd import dkd_loss
from kd_lightning.mixing import Mixing
from kd_lightning.models import Features

OURS, THEIRS, LABELS = golden.student_logits(), golden.teacher_logits(), golden.LABELS


def test_golden_values() -> None:
    golden.check(lambda ours: dkd_loss(ours, THEIRS, LABELS), (OURS,), 11.2471843634, 2.5811286)
    parts = [dkd_loss(OURS, THEIRS, LABELS, alpha=a, beta=1 - a).item() for a in (1.0, 0.0)]
    assert parts == pytest.approx([0.4354682935, 1.3514645087])


def test_kd_is_dkd_with_the_teachers_doubt_as_beta() -> None:
    """Eq. 7: KD weights the part of the other classes by 1 minus the teacher's probability of the label."""
    for row in range(6):
        rows = OURS[row : row + 1], THEIRS[row : row + 1]
        doubt = 1 - (rows[1] / 4).softmax(dim=1)[0, LABELS[row]].item()
        found = dkd_loss(*rows, LABELS[row : row + 1], beta=doubt)
        torch.testing.assert_close(found, kd_loss(*rows, temperature=4.0))


def test_a_constant_on_all_logits_of_a_sample_changes_nothing() -> None:
    moved = dkd_loss(OURS + torch.arange(6)[:, None], THEIRS - 7, LABELS)
    torch.testing.assert_close(moved, dkd_loss(OURS, THEIRS, LABELS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_label_stays_left_out_if_its_logit_is_far_above_all_others(dtype: torch.dtype) -> None:
    """A mask that subtracts 1,000 from the logit of the label, as in the released code, compares the label itself."""
    ours, theirs = torch.tensor([[10000.0, 0.0, 3.0]], dtype=dtype), torch.tensor([[10000.0, 2.0, 0.0]], dtype=dtype)
    others = kd_loss(torch.tensor([[0.0, 3.0]]), torch.tensor([[2.0, 0.0]]), temperature=4.0)
    found = dkd_loss(ours.requires_grad_(), theirs, torch.tensor([0]), alpha=1.0, beta=1.0)
    torch.testing.assert_close(found, others)
    found.backward()
    assert ours.grad[0, 1:].abs().min() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_target_10000_below_the_others_is_not_lost(dtype: torch.dtype) -> None:
    """The logarithm of a probability that rounds to 0 would be minus infinity."""
    ours = torch.tensor([[-10000.0, 0.0]], dtype=dtype, requires_grad=True)
    found = dkd_loss(ours, torch.tensor([[10.0, 0.0]]), torch.tensor([0]), temperature=1.0)
    found.backward()
    assert found.item() == pytest.approx(10000, rel=0.01)
    assert ours.grad.isfinite().all()
    assert ours.grad[0, 0] < -0.9


class Ramp(Callback):
    """Collects the term and the loss without warm-up of each epoch's only step."""

    def __init__(self) -> None:
        self.factors: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: object) -> None:
        self.factors.append(pl_module.loss_terms["dkd"].item() / pl_module.plain)


def test_the_loss_is_warmed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, ramp = method(DKD, warmup=0.5, dkd_weight=3.0, beta=2.0), Ramp()

    def record(*args: object, **kwargs: float) -> torch.Tensor:
        assert kwargs == {"temperature": 4.0, "alpha": 1.0, "beta": 2.0}
        loss = dkd_loss(*args, **kwargs)
        built.plain = 3.0 * loss.item()
        return loss

    monkeypatch.setattr("kd_lightning.methods.dkd.dkd_loss", record)
    trainer(tmp_path, ramp, max_epochs=4).fit(built, digits(max_train_samples=10, batch_size=10))
    assert ramp.factors == pytest.approx([0.5, 1, 1, 1])
    assert DKD.__init__.__kwdefaults__["warmup"] == pytest.approx(20 / 240)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"temperature": 0.0}, "^temperature: 0.0 is not above 0"),
        ({"beta": -1.0}, "^beta: -1.0 is negative"),
        ({"warmup": 1.5}, "^model.warmup: 1.5 is neither a number of epochs"),
    ],
)
def test_refusals(wrong: dict[str, float], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        method(DKD, **wrong)


def test_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    built, mixed, unlabeled = method(DKD, ce_weight=0.0), digits(mixing=Mixing(mixup=1.0)), digits()
    unlabeled.labeled = False
    with pytest.raises(ConfigError, match=r"^data.mixing: DKD needs one label per image; remove data.mixing$"):
        built.check_data(mixed)
    with pytest.raises(ConfigError, match=r"^data.labeled: DKD reads labels, but the data have none; choose a method"):
        built.check_data(unlabeled)
    with pytest.raises(ConfigError, match=r"has 7 classes, .* have 10, and DKD reads logits"):
        DKD(teacher=with_weights(tmp_path, "cifar_resnet8", classes=7), student=student())


def test_no_gradient_reaches_the_teachers_side() -> None:
    ours, theirs = OURS.clone().requires_grad_(), THEIRS.clone()
    batch = type("Batch", (), {"labels": LABELS})
    found = method(DKD).losses(Features(logits=ours), Features(logits=theirs), batch)
    torch.testing.assert_close(found, {"dkd": dkd_loss(OURS, THEIRS, LABELS)})
