"""SDD: golden values of both bases, regions, the double weight of unlike regions, class maps, warm-up, and errors."""

from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from helpers import golden
from helpers.factories import digits, method, shared_teacher, student, trainer, with_weights
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.functional import kd_loss
from kd_lightning.methods import SDD
from kd_lightning.methods.dkd import dkd_loss
from kd_lightning.methods.sdd import region_logits, sdd_loss

TEACHER = 3 * golden.teacher_maps(6, 5, 5)


@pytest.mark.parametrize(
    ("settings", "value", "norm"),
    [({}, 4.353535834, 0.27588467), ({"base": "dkd", "beta": 2.0}, 9.68452662, 0.64443484)],
)
def test_golden_values(settings: dict, value: float, norm: float) -> None:
    def loss(regions: Tensor) -> Tensor:
        return sdd_loss(3 * regions, TEACHER, golden.LABELS, **settings)

    golden.check(lambda regions: loss(regions / 3), (3 * golden.student_maps(6, 5, 5),), value, norm)


def test_golden_regions() -> None:
    def squares(maps: Tensor) -> Tensor:
        return region_logits(maps, torch.eye(3, dtype=maps.dtype), None).square().sum()

    golden.check(squares, (golden.student_maps(2, 3, 8, 8),), 0.2616022854, 0.57107824)


def test_the_first_region_is_the_image_and_the_others_are_its_parts() -> None:
    maps, weight, bias = golden.student_maps(2, 3, 8, 8), golden.weight(1, 5, 3), golden.bias(1, 5)
    for grid, count in ((4, 21), (2, 5)):
        regions = region_logits(maps, weight, bias, grid=grid)
        assert regions.shape == (2, 5, count)
        torch.testing.assert_close(regions[:, :, 0], F.linear(maps.mean((2, 3)), weight, bias))
        torch.testing.assert_close(regions[:, :, 2], F.linear(maps[:, :, :4, 4:].mean((2, 3)), weight, bias))
        torch.testing.assert_close(
            regions[:, :, -1], F.linear(maps[:, :, -8 // grid :, -8 // grid :].mean((2, 3)), weight, bias)
        )


@pytest.mark.parametrize("base", ["kd", "dkd"])
def test_regions_about_which_the_teacher_changes_its_mind_count_twice(base: Literal["kd", "dkd"]) -> None:
    student, labels = 3 * golden.student_maps(6, 5, 5), golden.LABELS
    values, weights = [], []
    for region in range(5):
        pair = student[:, :, region], TEACHER[:, :, region]
        kd, dkd = kd_loss(*pair, temperature=4, reduction="none"), dkd_loss(*pair, labels, reduction="none")
        values.append(kd if base == "kd" else dkd)
        right, whole = (TEACHER[:, :, place].argmax(dim=1) == labels for place in (region, 0))
        weights.append(1.0 + (right ^ whole).double())
    assert {*torch.stack(weights).unique().tolist()} == {1, 2}
    expected = (torch.stack(values) * torch.stack(weights)).mean()
    torch.testing.assert_close(sdd_loss(student, TEACHER, labels, base=base), expected)


@pytest.mark.parametrize("base", ["kd", "dkd"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_that_are_10000_apart_are_finite(base: Literal["kd", "dkd"], dtype: torch.dtype) -> None:
    regions = torch.tensor([1e4, -1e4], dtype=dtype)[None, :, None].repeat(1, 1, 5).requires_grad_()
    loss = sdd_loss(regions, -regions.detach(), torch.tensor([0]), base=base)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(regions.grad).all()


def batch(side: int = 32, count: int = 4) -> Batch:
    rows = torch.arange(count)
    images = torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Batch(images, rows, rows, rows)


def test_the_term_is_that_of_both_networks_own_classifiers() -> None:
    built, given = method(SDD, sdd_weight=2.0, base="dkd", alpha=0.5, beta=3.0, temperature=2.0).eval(), batch()
    regions = [
        region_logits(network.features(given.images, maps=1).maps[-1], *network.classifier)
        for network in (built.student, built.teacher)
    ]
    terms = built.training_terms(given)
    settings = {"base": "dkd", "alpha": 0.5, "beta": 3.0, "temperature": 2.0}
    torch.testing.assert_close(terms["sdd"], 2 * sdd_loss(*regions, given.labels, **settings))
    assert torch.autograd.grad(terms["sdd"], built.student.model.fc.weight)[0].abs().max() > 0


def test_the_weight_warms_up() -> None:
    built = method(SDD, warmup=4).eval()
    full = built.training_terms(batch())["sdd"] * 4
    for epoch in (2, 4, 10):
        built.epoch.fill_(epoch)
        torch.testing.assert_close(built.training_terms(batch())["sdd"], min(epoch / 4, 1) * full)


def test_refusals(tmp_path: Path) -> None:
    small = {"student": student(), "teacher": shared_teacher()}
    with pytest.raises(ConfigError, match=r"SDD needs .* at least 16 positions, but a map of cifar_resnet8 has 2 x 2"):
        trainer(tmp_path).fit(SDD(**small), digits())
    trainer(tmp_path).fit(SDD(**small, grid=2), digits(max_train_samples=20, batch_size=10))
    teacher = with_weights(tmp_path, "convnext_atto", depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])
    with pytest.raises(ConfigError, match="convnext_atto: this network has no class maps"):
        SDD(student=student(), teacher=teacher).training_terms(batch(128))
    with pytest.raises(ConfigError, match=r"beta: -1.0 is negative"):
        method(SDD, beta=-1.0)
    unlabelled = digits()
    unlabelled.labeled = False
    with pytest.raises(ConfigError, match=r"data.labeled: SDD reads labels"):
        method(SDD, ce_weight=0.0).check_data(unlabelled)
