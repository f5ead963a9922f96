"""KDSVD: golden value, signs, singular vectors and their gradient, unequal maps, and refusals."""

from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, shared_teacher, student, trainer
from torch import Tensor, nn

from kd_lightning import functional
from kd_lightning.errors import ConfigError
from kd_lightning.methods import KDSVD
from kd_lightning.methods.kdsvd import kdsvd_loss, singular_vectors
from kd_lightning.models import Network, Reads

STAGES = ((2, 4, 8, 8), (2, 6, 4, 4))


def maps() -> tuple[list[Tensor], list[Tensor]]:
    return [golden.student_chirp(*shape) for shape in STAGES], [golden.teacher_chirp(*shape) for shape in STAGES]


def test_golden_value() -> None:
    own, taught = maps()
    golden.check(lambda *own: kdsvd_loss(own, taught), tuple(own), 0.08720633883, 0.19707981)


def test_the_signs_of_the_library_have_no_effect() -> None:
    own, taught = maps()
    value = kdsvd_loss(own, taught)
    for flipped in ([-own[0], own[1]], [own[0], -own[1]]):  # the same singular vectors up to their signs
        torch.testing.assert_close(kdsvd_loss(flipped, taught), value)
    torch.testing.assert_close(kdsvd_loss(own, [taught[0], -taught[1]]), value)
    assert kdsvd_loss(taught, taught) < 1e-25


@pytest.mark.parametrize("shape", [(3, 5, 4, 4), (3, 9, 2, 3)])  # more positions than channels, and fewer
def test_singular_vectors_are_those_of_torch(shape: tuple[int, ...]) -> None:
    given = golden.student_chirp(*shape)
    found, values = singular_vectors(given, 4)
    _, expected, vectors = torch.linalg.svd(given.flatten(2).mT, full_matrices=False)
    torch.testing.assert_close(values, expected[:, :4])
    torch.testing.assert_close((found * vectors[:, :4]).sum(2).abs(), torch.ones_like(values))
    assert singular_vectors(1e200 * given, 2)[0].isfinite().all()


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (2, 5, 2, 2)])
@pytest.mark.parametrize("k", [1, 2])
def test_the_gradient_is_that_of_the_value(shape: tuple[int, ...], k: int) -> None:
    taught = [golden.teacher_chirp(*shape), golden.teacher_chirp(2, 3, 3, 3)]
    own = tuple(x.requires_grad_() for x in (golden.student_chirp(*shape), golden.student_chirp(2, 3, 3, 3)))
    assert torch.autograd.gradcheck(lambda *own: kdsvd_loss(own, taught, k=k), own)


def test_maps_of_low_rank_have_a_bounded_gradient() -> None:
    """In the released code, the gradient of two zero singular values is not bounded."""
    taught = [golden.teacher_maps(*shape) for shape in STAGES]  # of rank 2 up to rounding
    own = [golden.student_maps(*shape).requires_grad_() for shape in STAGES]
    gradients = torch.autograd.grad(kdsvd_loss(own, taught), own)
    assert all(0 < gradient.norm() < 100 for gradient in gradients)
    one = torch.eye(4, dtype=torch.float64).reshape(1, 4, 2, 2).requires_grad_()  # four equal singular values
    kdsvd_loss([one, one], [x[:1, :4] for x in taught]).backward()
    assert one.grad.isfinite().all()


def test_it_is_computed_in_chunks_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    own, taught = maps()
    whole = kdsvd_loss(own, taught, k=2)
    monkeypatch.setattr(functional, "_FLOATS", 1)
    torch.testing.assert_close(kdsvd_loss(own, taught, k=2), whole)


def test_a_convolution_only_where_the_widths_differ() -> None:
    built = method(KDSVD)
    assert built.reads == Reads(maps=3)
    shapes = [(layer.in_channels, layer.out_channels, layer.bias) for (layer,) in built.regressors]
    assert shapes == [(4, 16, None), (8, 32, None), (16, 64, None)]
    same = method(KDSVD, student=Network("cifar_resnet8", num_classes=10), kdsvd_weight=3.0, layers=2).eval()
    assert all(isinstance(regressor, nn.Identity) for regressor in same.regressors)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layers: 1 is given, but KDSVD compares consecutive stages; give 2 or more"):
        method(KDSVD, layers=1)
    with pytest.raises(ConfigError, match="k: 0 is not above 0"):
        method(KDSVD, k=0)
    with pytest.raises(ConfigError, match=r"k: 17 is given, but a map of cifar_resnet20.digits has only 16 channels"):
        method(KDSVD, k=17)
    with pytest.raises(ConfigError, match=r"model.student: KDSVD needs .* at least 5 positions, .* has 2 x 2"):
        trainer(tmp_path).fit(KDSVD(teacher=shared_teacher(), student=student(), k=5), digits())
    built = KDSVD(teacher=shared_teacher(), student=student(size=4))
    with pytest.raises(ConfigError, match=r"model.student: KDSVD needs .* at least 2 positions, .* has 1 x 1"):
        trainer(tmp_path).fit(built, digits())
    assert method(KDSVD, ce_weight=0).needs_labels is False
