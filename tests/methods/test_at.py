"""AT: golden value, a reference with a loop over positions, pooling, and its invariances."""

import pytest
import torch
from helpers.factories import method
from helpers.golden import student, teacher
from torch import nn

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import AT
from kd_lightning.methods.at import at_loss
from kd_lightning.models import Network, Reads


def test_golden_value() -> None:
    ours, theirs = (x(6, 24).reshape(2, 3, 6, 4) for x in (student, teacher))
    assert at_loss(ours, theirs).item() == pytest.approx(0.0135038830, abs=1e-9)


def test_a_loop_over_positions() -> None:
    ours, theirs = student(6, 24).reshape(2, 3, 6, 4), teacher(8, 24).reshape(2, 4, 6, 4)
    total = 0.0
    for a, b in zip(ours.numpy(), theirs.numpy(), strict=True):
        maps = [sum(channel**2 for channel in x) for x in (a, b)]
        one, other = (x / (x**2).sum() ** 0.5 for x in maps)
        total += ((one - other) ** 2).sum()
    assert at_loss(ours, theirs).item() == pytest.approx(total / 48, rel=1e-12)


def test_it_sees_where_and_not_what_nor_how_much() -> None:
    theirs = teacher(6, 24).reshape(2, 3, 6, 4)
    assert at_loss(-5 * theirs[:, [2, 0, 1]].repeat(1, 2, 1, 1), theirs) < 1e-20
    assert at_loss(theirs.flip(3), theirs) > 1e-3


@pytest.mark.parametrize("large", ["student", "teacher"])
def test_the_larger_map_is_pooled(large: str) -> None:
    small, coarse = torch.rand(2, 3, 2, 2), torch.rand(2, 5, 2, 2)
    fine = nn.functional.interpolate(coarse, scale_factor=4)
    pair = (fine, small) if large == "student" else (small, fine)
    whole = (coarse, small) if large == "student" else (small, coarse)
    torch.testing.assert_close(at_loss(*pair), at_loss(*whole))


def test_layers_are_summed_and_checked() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    one, three = (method(AT, layers=layers) for layers in (1, 3))
    seen, taught = one.student.eval().features(images, maps=3), one.teacher_features(images, Reads(maps=3))
    each = [at_loss(a, b) for a, b in zip(seen.maps, taught.maps, strict=True)]
    rows = torch.zeros(4).long()
    batch = Batch(images, rows, rows, rows)
    for built, expected in ((one, each[-1]), (three, sum(each))):
        built.student.load_state_dict(one.student.state_dict())
        built.eval()
        torch.testing.assert_close(built.training_terms(batch)["at"], 1000 * expected)
    with pytest.raises(ConfigError, match="layers: 9 is given, but cifar_resnet8 has 4 stages"):
        method(AT, layers=9)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        *[("cifar_vgg8", 4), ("cifar_mobilenetv2", 4), ("cifar_resnet50", 4), ("resnet18", 4)],
        *[("cifar_resnet8", 3), ("cifar_wrn_16_1", 3), ("cifar_shufflenetv1", 3)],
    ],
)
def test_layers_by_default_are_repdistillers(name: str, layers: int) -> None:
    """RepDistiller's feats[1:-1]: all stages except the stem, or except the first stage of a VGG."""
    with torch.device("meta"):
        networks = [Network(name, num_classes=10) for _ in range(2)]
    networks[0].has_weights = True
    built = AT(teacher=networks[0], student=networks[1])
    assert built.layers == layers == len(networks[0].model.feature_info) - 1
    assert built.reads == Reads(maps=layers)
    assert method(AT, student=networks[1]).layers == 3  # a teacher with four stages


def test_a_transformers_patches_have_places_too() -> None:
    small = {"img_size": 8, "patch_size": 4, "depth": 3, "num_heads": 2, "embed_dim": 16}
    built = method(AT, student=Network("vit_tiny_patch16_224", num_classes=10, model_kwargs=small))
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    maps = built.student.features(images, maps=3).maps
    assert [tuple(x.shape[-2:]) for x in maps] == [(2, 2)] * 3
    assert torch.isfinite(at_loss(maps[0], built.teacher_features(images, Reads(maps=3)).maps[0]))
