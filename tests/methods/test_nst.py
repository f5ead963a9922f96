"""NST: golden value, a reference with loops over channels, its invariances, pooling, and refusals."""

from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, shared_teacher, student, trainer
from torch.nn.functional import avg_pool2d

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import NST
from kd_lightning.methods.nst import nst_loss
from kd_lightning.models import Features, Network, Reads


def test_golden_value() -> None:
    taught = golden.teacher_maps(2, 6, 4, 4)
    golden.check(lambda maps: nst_loss(maps, taught), (golden.student_maps(2, 3, 8, 8),), 0.7460822018, 1.9983634)


def test_a_loop_over_channels() -> None:
    own, taught = golden.student_maps(2, 3, 2, 2), golden.teacher_maps(2, 4, 2, 2)
    total = 0.0
    for a, b in zip(own.flatten(2).tolist(), taught.flatten(2).tolist(), strict=True):

        def kernel(one: list[list[float]], other: list[list[float]]) -> float:
            unit = [[[v / sum(w * w for w in row) ** 0.5 for v in row] for row in rows] for rows in (one, other)]
            pairs = [sum(x * y for x, y in zip(p, q, strict=True)) ** 2 for p in unit[0] for q in unit[1]]
            return sum(pairs) / len(pairs)

        total += kernel(b, b) + kernel(a, a) - 2 * kernel(a, b)
    assert nst_loss(own, taught).item() == pytest.approx(total / 2, rel=1e-12)


def test_scale_order_and_number_of_the_channels_are_free() -> None:
    taught = golden.teacher_maps(2, 6, 4, 4)
    scales = torch.arange(1.0, 13.0)[:, None, None]
    assert nst_loss(scales * taught[:, [3, 1, 0, 2, 5, 4]].repeat(1, 2, 1, 1), taught).abs() < 1e-15
    assert nst_loss(taught.flip(3), taught) > 1e-3  # the positions are not free


def test_the_losses_of_the_stages_are_added_and_the_larger_map_is_pooled() -> None:
    built = method(NST, layers=2, nst_weight=3.0)
    assert built.reads == Reads(maps=2)
    assert method(NST).layers == 3
    with torch.device("meta"):
        deep = Network("resnet18", num_classes=10)
    deep.has_weights = True
    assert NST(teacher=deep, student=deep).layers == 4
    maps = [golden.student_maps(3, 4, 4, 4), golden.student_maps(3, 4, 2, 2)]
    taught = [golden.teacher_maps(3, 5, 4, 4), golden.teacher_maps(3, 5, 4, 4)]
    rows = torch.arange(3)
    found = built.losses(Features(maps), Features(taught), Batch(maps[0], rows, rows, rows))["nst"]
    expected = nst_loss(maps[0], taught[0]) + nst_loss(maps[1], avg_pool2d(taught[1], 2))
    torch.testing.assert_close(found, 3 * expected)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layers: 9 is given, but cifar_resnet8 has 4 stages"):
        method(NST, layers=9)
    built = NST(teacher=shared_teacher(), student=student(size=4))
    with pytest.raises(ConfigError, match=r"model.student: NST needs .* at least 2 positions, .* has 1 x 1"):
        trainer(tmp_path).fit(built, digits())
    assert method(NST, ce_weight=0).needs_labels is False
