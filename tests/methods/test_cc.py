"""CC: golden values of both forms, the kernel, the order of the images, the trained layers, and refusals."""

import math

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, student
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import CC
from kd_lightning.methods.cc import correlation_loss, neighbor_correlation_loss
from kd_lightning.models import Features


def embedded(vectors: Tensor, number: int) -> Tensor:
    return vectors @ golden.weight(number, 4, vectors.shape[1]).T + golden.bias(number, 4)


def test_golden_values() -> None:
    taught = embedded(golden.teacher(6, 8), 2)
    vectors = (golden.student(6, 5),)
    golden.check(lambda x: neighbor_correlation_loss(embedded(x, 1), taught), vectors, 1.586369013, 1.4824383)
    golden.check(lambda x: correlation_loss(embedded(x, 1), taught), vectors, 0.1274977461, 0.039894636)


def test_the_expansion_is_that_of_the_gaussian_kernel() -> None:
    own, taught = golden.student(6, 5), golden.teacher(6, 8)
    units = [x / x.norm(dim=1, keepdim=True) for x in (own, taught)]
    kernels = [(-0.4 * torch.cdist(x, x).square()).exp() for x in units]
    exact = (kernels[0] - kernels[1]).square().mean().item()
    for order in (12, 400):  # 400! is more than a float can be
        assert correlation_loss(own, taught, order=order).item() == pytest.approx(exact, rel=1e-6)
    assert correlation_loss(own, taught, order=1).item() == pytest.approx(
        (math.exp(-0.8) * 0.8) ** 2 * (units[0] @ units[0].T - units[1] @ units[1].T).square().mean().item()
    )


def test_only_the_form_of_the_code_depends_on_the_order_and_the_scale() -> None:
    own, taught = golden.student(6, 5), golden.teacher(6, 5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(correlation_loss(own[order], taught[order]), correlation_loss(own, taught))
    torch.testing.assert_close(correlation_loss(7 * own, taught), correlation_loss(own, taught))
    assert (neighbor_correlation_loss(own[order], taught[order]) - neighbor_correlation_loss(own, taught)).abs() > 0.01
    differences = (own - taught).abs()
    pairs = [(differences[i] @ differences[i + 1]).item() for i in range(5)]
    assert neighbor_correlation_loss(own, taught).item() == pytest.approx(sum(pairs) / 5)
    assert neighbor_correlation_loss(own[:1], taught[:1]) == 0


@pytest.mark.parametrize("form", ["neighbors", "kernel"])
def test_the_layers_of_both_networks_are_trained(form: str) -> None:
    built = method(CC, form=form, width=8, cc_weight=2.0, gamma=0.3, order=3)
    assert (built.head.weight.shape, built.teacher_head.weight.shape) == ((8, 16), (8, 64))
    own, taught = torch.rand(4, 16), torch.rand(4, 64)
    rows = torch.arange(4)
    found = built.losses(Features(embedding=own), Features(embedding=taught), Batch(own, rows, rows, rows))["cc"]
    pair = built.head(own), built.teacher_head(taught)
    expected = neighbor_correlation_loss(*pair) if form == "neighbors" else correlation_loss(*pair, gamma=0.3, order=3)
    torch.testing.assert_close(found, 2 * expected)
    found.backward()
    assert built.head.weight.grad.abs().max() > 0
    assert built.teacher_head.weight.grad.abs().max() > 0


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="order: 0 is not above 0"):
        method(CC, form="kernel", order=0)
    with pytest.raises(ConfigError, match="width: 0 is not above 0"):
        method(CC, width=0)
    built = method(CC, student=student(0), ce_weight=0)
    assert built.needs_labels is False
    built.check_data(digits())
