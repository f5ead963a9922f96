"""SP: golden values, two wrong variants, an independent reference, and its invariances."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.golden import student, teacher
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import KD, SP
from kd_lightning.methods.sp import sp_loss
from kd_lightning.models import Network

GOLDEN = 0.053550609348715646


def globally_normalised(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return a wrong variant, which divides each Gram matrix by its Frobenius norm."""
    grams = [features @ features.T for features in (ours, theirs)]
    return (grams[0] / grams[0].norm() - grams[1] / grams[1].norm()).square().mean()


def features_normalised(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return a wrong variant, which normalises the rows of the features instead of those of the Gram matrix."""
    rows = [F.normalize(features) for features in (ours, theirs)]
    return (rows[0] @ rows[0].T - rows[1] @ rows[1].T).square().mean()


def reference(ours: Tensor, theirs: Tensor) -> float:
    """Return the paper's Eqs. 2 to 4, computed with numpy loops."""

    def normalised(features: Tensor) -> np.ndarray:
        rows = features.double().reshape(len(features), -1).numpy()
        gram = np.array([[np.dot(a, b) for b in rows] for a in rows])
        return np.array([row / np.linalg.norm(row) for row in gram])

    difference = normalised(theirs) - normalised(ours)
    return float(np.sum(difference**2)) / len(ours) ** 2


def test_golden_value_and_the_two_wrong_variants() -> None:
    ours, theirs = student(6, 5), teacher(6, 8)
    assert sp_loss(ours, theirs).item() == pytest.approx(GOLDEN, abs=1e-12)
    assert globally_normalised(ours, theirs).item() == pytest.approx(0.013774136954037647, abs=1e-12)
    assert features_normalised(ours, theirs).item() == pytest.approx(0.12765718281296365, abs=1e-12)
    for wrong in (globally_normalised, features_normalised):
        assert wrong(ours, theirs).item() != pytest.approx(sp_loss(ours, theirs).item(), rel=0.5)


@pytest.mark.parametrize(
    "shapes", [((7, 3, 4, 4), (7, 3, 4, 4)), ((7, 5, 2, 3), (7, 16, 8, 8)), ((1, 4, 2, 2), (1, 9))]
)
def test_equals_an_independent_reference_for_any_shapes(shapes: tuple) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    assert sp_loss(ours, theirs).item() == pytest.approx(reference(ours, theirs), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_scale_order_of_positions_and_memory_layout_change_nothing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours = torch.randn(9, 4, 5, 5, dtype=torch.float64, generator=generator)
    theirs = torch.randn(9, 6, 3, 3, dtype=torch.float64, generator=generator)
    value = sp_loss(ours, theirs)
    scale = 10 ** float(torch.empty(()).uniform_(-6, 6, generator=generator))
    shuffled = theirs.flatten(1)[:, torch.randperm(54, generator=generator)]
    torch.testing.assert_close(sp_loss(ours * scale, theirs / scale), value)
    torch.testing.assert_close(sp_loss(ours, shuffled), value)
    both = [maps.to(memory_format=torch.channels_last) for maps in (ours, theirs)]
    assert not any(maps.is_contiguous() for maps in both)
    torch.testing.assert_close(sp_loss(*both), value)


def test_features_whose_gram_passes_half_precision_stay_finite() -> None:
    big = torch.rand(4, 2048, 7, 7).half() * 100
    ours = torch.rand(4, 64, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        loss = sp_loss(ours, big)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference(ours.detach(), big), rel=2e-3)
    assert torch.isfinite(sp_loss(ours * 1e25, big.float() * 1e25))


def test_a_dead_sample_has_no_gradient_and_spoils_no_other() -> None:
    ours = torch.rand(5, 8)
    ours[2] = 0
    ours.requires_grad_()
    sp_loss(ours, torch.rand(5, 9)).backward()
    assert torch.isfinite(ours.grad).all()
    assert ours.grad.abs().max() < 10


def test_the_method_reads_the_last_maps_of_both_and_weighs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Network("cifar_resnet20.digits", pretrained=True)
    method = SP(teacher=trained, student=Network("resnet18", num_classes=10), sp_weight=5, ce_weight=0.5).eval()
    monkeypatch.setattr(method, "log", lambda *args, **kwargs: None)
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    losses = method.training_terms(Batch(images, torch.arange(6), torch.arange(6), torch.arange(6)))
    maps = [method.student.model.forward_features(method.student.normalize(images))]
    maps.append(trained.model.forward_features(trained.normalize(images)))
    torch.testing.assert_close(losses["sp"], 5 * sp_loss(*maps))
    assert maps[0].shape[1:] != maps[1].shape[1:]


def made(**kwargs: object) -> SP:
    torch.manual_seed(0)
    teacher_network = Network("cifar_resnet20.digits", pretrained=True)
    method = SP(teacher=teacher_network, student=Network("cifar_resnet8", num_classes=10), **kwargs).eval()
    method.log = lambda *args, **kwargs: None
    return method


def some() -> Batch:
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(6), torch.arange(6), torch.arange(6))


def test_several_layers_are_added() -> None:
    method = made(layers=3, sp_weight=1)
    maps = [network.features(some().images, maps=3).maps for network in (method.student, method.teacher)]
    assert [len(stages) for stages in maps] == [3, 3]
    expected = sum(sp_loss(ours, theirs) for ours, theirs in zip(*maps, strict=True))
    torch.testing.assert_close(method.training_terms(some())["sp"], expected)
    assert expected > made(sp_weight=1).training_terms(some())["sp"]


def test_with_kd_beside_it_and_without_labels() -> None:
    method = made(ce_weight=0.1, kd_weight=0.9)
    kd = KD(teacher=method.teacher, student=method.student).eval()
    kd.log = method.log
    ours, theirs = method.training_terms(some()), kd.training_terms(some())
    assert {*ours} == {"ce", "sp", "kd"}
    for name in ("ce", "kd"):
        torch.testing.assert_close(ours[name], theirs[name])
    assert {*made(ce_weight=0).training_terms(some())} == {"sp"}
    alone = made(ce_weight=0, kd_weight=1)
    assert alone.trains_classifier
    assert {*alone.training_terms(some())} == {"sp", "kd"}
    assert not made(ce_weight=0).trains_classifier


def test_refusals() -> None:
    for layers in (0, 9):
        with pytest.raises(
            ConfigError, match=rf"layers: {layers} is given, but cifar_resnet8 has \d stages; choose 1 to \d"
        ):
            made(layers=layers)
    with pytest.raises(ConfigError, match="kd_temperature: 0"):
        made(kd_temperature=0)
    other = Network("cifar_resnet8", num_classes=3)
    other.has_weights = True
    with pytest.raises(ConfigError, match="has 3 classes"):
        SP(teacher=other, student=Network("cifar_resnet8", num_classes=10), kd_weight=1)
