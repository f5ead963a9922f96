"""SwingKD: golden values, equality with KD if it is disabled, temperatures from the risk, and noise from the keys."""

import pytest
import torch
from helpers import golden
from helpers.factories import method, shared_teacher, student
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.functional import kd_loss, target_divergence
from kd_lightning.methods import KD, SwingKD
from kd_lightning.methods.swing_kd import confidence, noisy_targets, swing_loss
from kd_lightning.models import Features
from kd_lightning.randomness import sample_keys

OURS, THEIRS = golden.student_logits(), golden.teacher_logits()
TEMPERATURES = 4 * (1 + torch.arange(6, dtype=torch.float64) / 5)


def test_golden_value() -> None:
    loss = (lambda ours: swing_loss(ours, THEIRS, temperatures=TEMPERATURES), (OURS,))
    golden.check(*loss, 1.615498121, 0.3246286)


def test_golden_value_of_noisy_targets() -> None:
    i, c = torch.arange(6, dtype=torch.float64)[:, None], torch.arange(5, dtype=torch.float64)
    targets = noisy_targets(THEIRS, 0.02 * torch.sin(i + 2 * c), temperatures=TEMPERATURES)
    loss = (lambda ours: target_divergence(ours, targets, temperature=TEMPERATURES), (OURS,))
    golden.check(*loss, 2.035669476, 0.3604326)


def test_it_is_a_mean_of_the_losses_of_single_samples() -> None:
    each = [kd_loss(OURS[n : n + 1], THEIRS[n : n + 1], temperature=t) for n, t in enumerate(TEMPERATURES.tolist())]
    torch.testing.assert_close(swing_loss(OURS, THEIRS, temperatures=TEMPERATURES), torch.stack(each).mean())


def batch(epoch: int = 0, count: int = 24) -> Batch:
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(count)
    return Batch(images, rows % 10, rows, sample_keys(0, epoch, rows))


def terms(kind: type, given: Batch, **kwargs: float) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return method(kind, shared_teacher(), student=student(), **kwargs).eval().training_terms(given)


def test_without_noise_and_risk_it_is_kd() -> None:
    found, kd = terms(SwingKD, batch(), k=0.0, noise=0.0), terms(KD, batch())
    torch.testing.assert_close(found, {"ce": kd["ce"], "swing": kd["kd"]})
    default = terms(SwingKD, batch())
    assert torch.equal(default["ce"], kd["ce"])
    assert abs(default["swing"] / kd["kd"] - 1) > 0.01


def test_the_risk_is_the_largest_probability() -> None:
    assert confidence(torch.zeros(2, 5, dtype=torch.float16)).tolist() == pytest.approx([0.2, 0.2])
    assert torch.equal(confidence(THEIRS), THEIRS.softmax(dim=1).amax(dim=1))


def test_a_confident_teacher_raises_the_temperature() -> None:
    built = method(SwingKD, k=0.5, noise=0.0, temperature=3.0, swing_weight=2.0)
    logits = torch.tensor([[50.0, 0.0], [0.0, 0.0], [0.0, torch.tensor(3.0).log()]])  # 1, 1/2 and 3/4 at most
    found = built.losses(Features(logits=logits.flip(1)), Features(logits=logits), batch())["swing"]
    temperatures = 3 * torch.tensor([1.5, 1.25, 1.375])
    torch.testing.assert_close(found, 2 * swing_loss(logits.flip(1), logits, temperatures=temperatures))


def drawn(given: Batch, noise: float, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The noise of a step."""
    seen: list[Tensor] = []

    def record(logits: Tensor, added: Tensor, **kwargs: Tensor) -> Tensor:
        seen.append(added)
        return noisy_targets(logits, added, **kwargs)

    monkeypatch.setattr("kd_lightning.methods.swing_kd.noisy_targets", record)
    terms(SwingKD, given, noise=noise)
    return seen[0]


def test_the_noise_is_a_function_of_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a resumed run, another batch size and another number of devices have the same noise."""
    noise = drawn(batch(), 0.1, monkeypatch)
    torch.manual_seed(7)
    assert torch.equal(drawn(batch(), 0.1, monkeypatch), noise)
    assert torch.equal(drawn(Batch(*(x[8:] for x in batch()[:4])), 0.1, monkeypatch), noise[8:])
    assert not (drawn(batch(epoch=1), 0.1, monkeypatch) == noise).any()
    assert len(noise.unique()) == noise.numel()


def test_the_noise_is_normal_with_the_given_deviation(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = drawn(batch(count=500), 0.1, monkeypatch)
    assert abs(noise.mean()) < 0.006
    assert noise.std().item() == pytest.approx(0.1, rel=0.04)
    assert ((noise.abs() > 0.2).double().mean().item()) == pytest.approx(0.0455, abs=0.012)
    between = torch.corrcoef(noise.T) - torch.eye(10)  # between the classes
    assert between.abs().max() < 0.2


def test_noisy_targets_are_probabilities() -> None:
    noise = torch.linspace(-3, 3, 30, dtype=torch.float64).view(6, 5)
    targets = noisy_targets(THEIRS, noise, temperatures=TEMPERATURES)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(6, dtype=torch.float64))
    assert targets.min() > 0
    unchanged = noisy_targets(THEIRS, 0 * noise, temperatures=TEMPERATURES)
    torch.testing.assert_close(unchanged, (THEIRS / TEMPERATURES[:, None]).softmax(dim=1))


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"temperature": 0.0}, "^temperature: 0.0 is not above 0"),
        ({"k": -0.5}, "^k: -0.5 is negative"),
        ({"k": 1e9}, r"^temperature x \(1 \+ k\): 4e\+09 is not from 0.001 to 10000"),
        ({"noise": 1.5}, "^noise: 1.5 is not between 0 and 1"),
        ({"swing_weight": -1.0}, "^swing_weight: -1.0 is not a valid weight"),
    ],
)
def test_refusals(wrong: dict[str, float], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        method(SwingKD, **wrong)


def test_no_labels_are_needed_without_the_cross_entropy() -> None:
    assert not method(SwingKD, ce_weight=0.0).needs_labels
