"""WKD: values of the released code, the plan of Sinkhorn, costs, statistics of blocks, decay, and refusals."""

from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, student, trainer, with_weights
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import WKD
from kd_lightning.methods.wkd import class_costs, wkd_feature_loss, wkd_logit_loss
from kd_lightning.models import Features, Reads

WEIGHT = golden.weight(1, 5, 8)
MAPS = (2, 3, 8, 8)


def logit_loss(logits: Tensor, **settings: float) -> Tensor:
    costs = class_costs(WEIGHT)
    return wkd_logit_loss(logits, golden.teacher_logits(), golden.LABELS, costs=costs, **settings)


def test_values_of_the_released_code() -> None:
    golden.check(logit_loss, (golden.student_logits(),), 4.116003521, 0.20318388)
    settings = {"temperature": 2.0, "gamma": 30.0}
    golden.check(lambda x: logit_loss(x, **settings), (golden.student_logits(),), 1.15958668, 0.22166893)
    maps, taught = golden.student_maps(*MAPS), golden.teacher_maps(*MAPS)
    golden.check(lambda x: wkd_feature_loss(x, taught), (maps,), 2.279461874, 0.75486007)
    blocks = {"grid": 3, "mean_ratio": 2.0}
    golden.check(lambda x: wkd_feature_loss(x, taught, **blocks), (maps,), 0.8805804449, 0.23820496)


def test_the_plan_moves_the_probabilities_of_the_other_classes() -> None:
    """With two other classes, the cheapest plan moves the difference of their probabilities."""
    logits = torch.tensor([[9.0, 2.0, 0.0]], dtype=torch.float64)
    taught = torch.tensor([[9.0, 0.0, 2.0]], dtype=torch.float64)
    costs = torch.tensor([[0, 9, 9], [9, 0, 0.4], [9, 0.4, 0]], dtype=torch.float64)
    both = {"costs": costs, "temperature": 1.0, "gamma": 1.0, "regularization": 0.05, "iterations": 500}
    label = torch.tensor([0])
    own, other = (x.softmax(1) for x in (logits, taught))
    moved = torch.tensor([2.0, 0.0]).double().softmax(0)
    expected = 0.4 * (moved[0] - moved[1]) - other[0, 0] * own[0, 0].log()
    torch.testing.assert_close(wkd_logit_loss(logits, taught, label, **both), expected, rtol=0.01, atol=0)


def test_costs_are_of_the_directions_of_the_teachers_classes() -> None:
    distances = 1 - nn.functional.cosine_similarity(WEIGHT[:, None], WEIGHT[None], dim=2)
    torch.testing.assert_close(class_costs(WEIGHT, sharpness=0.0), distances)
    torch.testing.assert_close(class_costs(3 * WEIGHT, sharpness=2.0), 1 - torch.exp(-2 * distances))
    built = method(WKD)
    torch.testing.assert_close(built.costs, class_costs(built.teacher.classifier[0].detach()))
    assert "costs" not in built.state_dict()


def test_maps_of_other_sizes_with_the_same_statistics_are_equal() -> None:
    taught = golden.teacher_maps(2, 3, 4, 4)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = taught.flatten(2)[:, :, order].reshape(taught.shape)
    assert wkd_feature_loss(shuffled, taught) < 1e-20
    assert wkd_feature_loss(shuffled, taught, grid=2) > 1e-3
    shifted = wkd_feature_loss(taught + 0.5, taught, mean_ratio=4.0)
    assert shifted.item() == pytest.approx(4 * 3 * 0.25)


def test_terms_and_what_they_read() -> None:
    built = method(WKD, logit_weight=2.0, feature_weight=3.0)
    assert built.reads == Reads(maps=1, logits=True)
    maps, taught = torch.rand(4, 16, 2, 2), torch.rand(4, 64, 3, 3)
    logits, targets = torch.randn(2, 4, 10)
    rows = torch.arange(4)
    given = Batch(maps, rows, rows, rows)
    found = built.losses(Features([maps], logits=logits), Features([taught], logits=targets), given)
    torch.testing.assert_close(found["logit"], 2 * wkd_logit_loss(logits, targets, rows, costs=built.costs))
    torch.testing.assert_close(found["feature"], 3 * wkd_feature_loss(built.regressor(maps), taught))


def test_both_terms_decay_after_their_start(tmp_path: Path) -> None:
    built, found = method(WKD, decay_start=2), []
    built.log_dict = lambda values, **kwargs: found.append(float(built.decay))
    trainer(tmp_path, max_epochs=6).fit(built, digits(max_train_samples=50))
    assert found == pytest.approx([1, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0])
    assert method(WKD).decay == 1


def test_without_labels_or_with_other_classes_only_the_features(tmp_path: Path) -> None:
    assert method(WKD, ce_weight=0).needs_labels
    built = method(WKD, with_weights(tmp_path, "cifar_resnet8", 7), student=student(0), ce_weight=0, logit_weight=0)
    assert not built.needs_labels
    built.check_data(digits())
    logits = method(WKD, feature_weight=0)
    assert logits.reads == Reads(logits=True)
    assert not hasattr(logits, "regressor")


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="grid: 0 is not above 0"):
        method(WKD, grid=0)
    with pytest.raises(ConfigError, match=r"regularization: 0.0 is not above 0"):
        method(WKD, regularization=0.0)
    with pytest.raises(ConfigError, match=r"model.student: WKD needs feature maps with at least 32 positions"):
        trainer(tmp_path).fit(method(WKD, grid=4), digits())
