"""VID: golden value, the predictor, the trained variances, and refusals."""

from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, trainer
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import VID
from kd_lightning.methods.vid import vid_loss
from kd_lightning.models import Features

SCALE = 4.9932291827


def loss(maps: Tensor, log_scale: Tensor) -> Tensor:
    """The loss of 3 channels of 8 x 8 positions and 6 channels of 4 x 4 positions."""
    pooled = avg_pool2d(maps, 2)
    hidden = pooled
    for number, channels in ((1, 3), (2, 6)):
        hidden = torch.einsum("oi,nihw->nohw", golden.weight(number, 6, channels), hidden).relu()
    mean = torch.einsum("oi,nihw->nohw", golden.weight(3, 6, 6), hidden)
    return vid_loss(mean, golden.teacher_maps(2, 6, 4, 4), log_scale)


def test_golden_value() -> None:
    log_scale = torch.full((6,), SCALE, dtype=torch.float64, requires_grad=True)
    maps = golden.student_maps(2, 3, 8, 8)
    golden.check(lambda x: loss(x, log_scale), (maps,), 0.8637653587, 0.0016514711)
    (gradient,) = torch.autograd.grad(loss(maps, log_scale), log_scale)
    assert gradient.norm().item() == pytest.approx(0.03576208107, rel=1e-7)


def test_it_is_the_likelihood_of_a_normal_distribution_with_one_variance_per_channel() -> None:
    mean, taught = golden.student_maps(2, 3, 2, 2), golden.teacher_maps(2, 3, 2, 2)
    log_scale = torch.tensor([-1.0, 0.5, 4.0], dtype=torch.float64)
    variance = (1 + log_scale.exp()).log() + 1e-5
    normal = torch.distributions.Normal(mean, variance.sqrt()[:, None, None])
    constant = 0.5 * torch.tensor(2 * torch.pi, dtype=torch.float64).log()
    torch.testing.assert_close(vid_loss(mean, taught, log_scale), -normal.log_prob(taught).mean() - constant)


def test_the_term_adds_the_stages_and_pools_before_the_predictor() -> None:
    built = method(VID, layers=2, vid_weight=2.0)
    kinds = [type(layer) for layer in built.predictors[0].modules() if not [*layer.children()]]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert [scale.shape for scale in built.log_scales] == [(32,), (64,)]
    maps = [torch.rand(2, 8, 4, 4), torch.rand(2, 16, 2, 2)]
    taught = [torch.rand(2, 32, 2, 2), torch.rand(2, 64, 4, 4)]
    rows = torch.arange(2)
    found = built.losses(Features(maps), Features(taught), Batch(maps[0], rows, rows, rows))["vid"]
    pairs = [(avg_pool2d(maps[0], 2), taught[0]), (maps[1], avg_pool2d(taught[1], 2))]
    each = zip(built.predictors, pairs, built.log_scales, strict=True)
    expected = sum(vid_loss(predictor(own), target, scale) for predictor, (own, target), scale in each)
    torch.testing.assert_close(found, 2 * expected)


def test_the_variances_are_trained_and_kept_in_checkpoints(tmp_path: Path) -> None:
    """In mdistiller, they are not in the optimizer."""
    built = method(VID)
    assert all(scale.detach().unique().item() == pytest.approx(SCALE) for scale in built.log_scales)
    run = trainer(tmp_path, max_epochs=2)
    run.fit(built, digits())
    assert all((scale.detach() - SCALE).abs().min() > 1e-4 for scale in built.log_scales)
    assert all(scale.detach().std() > 1e-6 for scale in built.log_scales)  # weight decay alone moves all alike
    assert {"log_scales.0", "log_scales.2"} <= {*built.state_dict()}
    assert {*built.log_scales} <= {value for group in run.optimizers[0].param_groups for value in group["params"]}


def test_other_initial_variances() -> None:
    for variance in (0.01, 1.0, 100.0):
        (scale, *_) = method(VID, initial_variance=variance).log_scales
        found = torch.nn.functional.softplus(scale.detach().double()) + 1e-5
        assert found.tolist() == pytest.approx([variance] * len(found), rel=1e-5)


def test_refusals() -> None:
    for variance in (1e-5, 1e30):  # a checkpoint of a run with the second value could not be read
        with pytest.raises(ConfigError, match=r"initial_variance: .* is given; give a number above 1e-5, up to 1e6"):
            method(VID, initial_variance=variance)
    with pytest.raises(ConfigError, match="layers: 9 is given, but cifar_resnet8 has 4 stages"):
        method(VID, layers=9)
    assert method(VID, ce_weight=0).needs_labels is False
