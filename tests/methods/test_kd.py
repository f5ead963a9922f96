"""KD: golden values, an independent reference, and properties of the loss."""

import math

import pytest
import torch
from helpers.golden import student, teacher
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.functional import kd_loss
from kd_lightning.methods import KD
from kd_lightning.models import Network


@pytest.mark.parametrize(("temperature", "value"), [(4.0, 1.5616975887), (1.0, 0.6881614673)])
def test_golden_values(temperature: float, value: float) -> None:
    loss = kd_loss(3 * student(6, 5), 3 * teacher(6, 5), temperature=temperature)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(value, abs=1e-10)


def reference(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> float:
    """Return T^2 sum_k p_k log(p_k / q_k), the mean over the samples, in plain Python."""

    def softmax(row: list[float]) -> list[float]:
        exponents = [math.exp(value / temperature) for value in row]
        return [value / sum(exponents) for value in exponents]

    rows = zip(map(softmax, teacher_logits.tolist()), map(softmax, student_logits.tolist()), strict=True)
    divergences = [sum(p * math.log(p / q) for p, q in zip(*pair, strict=True)) for pair in rows]
    return temperature**2 * sum(divergences) / len(divergences)


@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (5, 3), (64, 100)])
def test_equals_an_independent_reference(samples: int, classes: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(samples)
    ours, theirs = torch.randn(2, samples, classes, dtype=torch.float64, generator=generator)
    assert kd_loss(ours, theirs, temperature=temperature).item() == pytest.approx(reference(ours, theirs, temperature))


def test_the_gradients_size_hardly_depends_on_the_temperature() -> None:
    """If T is much larger than the logits, T^2 KL has the gradient (z_s - z_t) / K, centred (Hinton, section 2.1)."""
    ours, theirs = student(6, 5).requires_grad_(), teacher(6, 5)
    gradients = [torch.autograd.grad(kd_loss(ours, theirs, temperature=t), ours)[0] for t in (1e4, 1e5)]
    centred = [logits - logits.mean(1, keepdim=True) for logits in (ours.detach(), theirs)]
    for gradient in gradients:
        torch.testing.assert_close(gradient, (centred[0] - centred[1]) / 5 / 6, rtol=1e-2, atol=1e-6)


def test_a_constant_on_all_logits_of_a_sample_changes_nothing() -> None:
    moved = kd_loss(student(6, 5) + torch.arange(6)[:, None], teacher(6, 5) - 7, temperature=2.0)
    torch.testing.assert_close(moved, kd_loss(student(6, 5), teacher(6, 5), temperature=2.0))


def test_the_terms_are_weighted_as_given(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Network("cifar_resnet20.digits", pretrained=True)
    method = KD(teacher=trained, student=Network("cifar_resnet8"), temperature=3, ce_weight=0.25, kd_weight=2)
    monkeypatch.setattr(method, "log", lambda *args, **kwargs: None)
    images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    batch = Batch(images, torch.arange(8), torch.arange(8), torch.arange(8))
    method.eval()  # with BatchNorm's running statistics, every call has the same logits
    losses, logits = method.training_terms(batch), method.student(images)
    torch.testing.assert_close(losses["ce"], 0.25 * torch.nn.functional.cross_entropy(logits, batch.labels))
    torch.testing.assert_close(losses["kd"], 2 * kd_loss(logits, trained(images), temperature=3))


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    trained = Network("cifar_resnet20.digits", pretrained=True)
    with pytest.raises(ConfigError, match=r"^temperature"):
        KD(teacher=trained, student=Network("cifar_resnet8"), temperature=temperature)
