"""SRRL: golden values, the frozen classifier, teachers without a classifier, and errors."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import golden
from helpers.factories import method, shared_teacher, with_weights
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import SRRL
from kd_lightning.methods.srrl import srrl_losses
from kd_lightning.models import Network

CLASSIFIER = golden.weight(2, 5, 6), golden.bias(2, 5)


def connected(maps: Tensor) -> Tensor:
    return F.relu(F.batch_norm(F.conv2d(maps, golden.weight(1, 6, 3, 1, 1)), None, None, training=True))


def test_golden_values() -> None:
    teacher = golden.teacher_maps(4, 6, 2, 2)
    logits = F.linear(teacher.mean((2, 3)), *CLASSIFIER)

    def losses(maps: Tensor) -> tuple[Tensor, Tensor]:
        return srrl_losses(connected(maps), teacher, *CLASSIFIER, logits)

    golden.check(losses, (golden.student_maps(4, 3, 2, 2),), [0.1662496405, 0.09438430474], 0.20055487)


def test_both_are_0_for_equal_means() -> None:
    maps = golden.teacher_maps(4, 6, 2, 2)
    logits = F.linear(maps.mean((2, 3)), *CLASSIFIER)
    assert [loss.item() for loss in srrl_losses(maps.flip(3), maps, *CLASSIFIER, logits)] == pytest.approx([0, 0])
    assert srrl_losses(maps, maps)[1] is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_that_are_10000_apart_are_finite(dtype: torch.dtype) -> None:
    maps = golden.student_maps(1, 6, 2, 2).to(dtype).requires_grad_()
    teacher, weight = golden.teacher_maps(1, 6, 2, 2).to(dtype), torch.eye(2, 6, dtype=dtype)
    losses = srrl_losses(maps, teacher, weight, None, torch.tensor([[1e4, -1e4]], dtype=dtype))
    sum(losses).backward()
    assert torch.isfinite(torch.stack(losses)).all()
    assert torch.isfinite(maps.grad).all()


def batch(count: int = 6, side: int = 8) -> Batch:
    rows = torch.arange(count)
    images = torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return Batch(images, rows % 10, rows, rows)


def test_the_gradient_passes_through_the_classifier_and_does_not_reach_it() -> None:
    built = method(SRRL)
    built.teacher.requires_grad_(True)
    terms = built.training_terms(batch())
    terms["logits"].backward()
    assert all(parameter.grad is None for parameter in built.teacher.parameters())
    assert built.connector[0].weight.grad.abs().max() > 0


def test_the_connector_is_drawn_as_in_the_released_code() -> None:
    torch.manual_seed(0)
    weight = method(SRRL).connector[0].weight  # 64 outputs, and a standard deviation of sqrt(2 / 64)
    assert weight.std().item() == pytest.approx(0.177, rel=0.1)
    assert len(method(SRRL).connector) == 3
    assert len(method(SRRL, relu=False).connector) == 2


def test_a_teacher_without_a_classifier_teaches_features(tmp_path: Path) -> None:
    teacher = with_weights(tmp_path, "cifar_resnet8", 0)
    with pytest.raises(ConfigError, match=r"cifar_resnet8: this network has no classifier \(num_classes is 0\)"):
        method(SRRL, teacher)
    assert {*method(SRRL, teacher, logits_weight=0.0).training_terms(batch())} == {"ce", "feature"}


def test_the_teacher_may_have_other_classes(tmp_path: Path) -> None:
    teacher = with_weights(tmp_path, "cifar_resnet8", 7)
    assert {*method(SRRL, teacher).training_terms(batch())} == {"ce", "feature", "logits"}
    random = Network("cifar_resnet8", checkpoint=str(tmp_path / "cifar_resnet8.safetensors"), num_classes=10)
    with pytest.raises(ConfigError, match=r"teacher.num_classes: the classifier of cifar_resnet8 is random"):
        method(SRRL, random)


def test_a_teacher_with_a_norm_before_its_classifier(tmp_path: Path) -> None:
    """Its pooled map is not the input of its classifier, which is the target."""
    teacher = with_weights(tmp_path, "convnext_atto", depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])
    built = method(SRRL, teacher).eval()
    given = batch(side=32)
    target = teacher.features(given.images, embedding=True).embedding
    maps = built.connector(built.student.features(given.images, maps=1).maps[-1])
    torch.testing.assert_close(built.training_terms(given)["feature"], F.mse_loss(maps.mean((2, 3)), target))


def test_labels_are_not_needed() -> None:
    built = method(SRRL, ce_weight=0.0, student=Network("cifar_resnet8", num_classes=10))
    assert not built.needs_labels
    assert {*built.training_terms(batch())} == {"feature", "logits"}
    assert built.teacher.name == shared_teacher().name
