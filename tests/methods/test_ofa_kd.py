"""OFAKD: golden values, stages and heads of CNNs and ViTs, exits, labels of mixed images, and errors."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import golden
from helpers.factories import digits, method, student, trainer, with_weights
from torch import nn

from kd_lightning.batch import Batch
from kd_lightning.distillation.downsampling_heads import PatchMerging, separable_head, token_head
from kd_lightning.errors import ConfigError
from kd_lightning.functional import kd_loss
from kd_lightning.methods import OFAKD
from kd_lightning.methods.ofa_kd import ofa_loss
from kd_lightning.models import Network

VIT = {"img_size": 8, "patch_size": 4, "num_heads": 2, "embed_dim": 16}


@pytest.mark.parametrize(("epsilon", "value", "norm"), [(1.0, 1.446528827, 0.23464598), (1.5, 1.232423809, 0.2677013)])
def test_golden_values(epsilon: float, value: float, norm: float) -> None:
    def loss(student: torch.Tensor) -> torch.Tensor:
        return ofa_loss(student, golden.teacher_logits(), golden.LABELS, epsilon=epsilon)

    golden.check(loss, (golden.student_logits(),), value, norm)


def test_equal_logits() -> None:
    logits = golden.teacher_logits()
    assert ofa_loss(logits, logits, golden.LABELS).item() == pytest.approx(0.758367, rel=1e-6)


def test_with_epsilon_1_it_is_kds_plus_the_entropy_of_the_teacher() -> None:
    student, teacher = golden.student_logits(), golden.teacher_logits()
    entropy = torch.distributions.Categorical(logits=teacher).entropy().mean()
    torch.testing.assert_close(
        ofa_loss(student, teacher, golden.LABELS), kd_loss(student, teacher, temperature=1) + entropy
    )


def batch(count: int = 6) -> Batch:
    rows = torch.arange(count)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batch(images, rows % 10, rows, rows)


def test_the_label_of_a_mixed_image_has_the_larger_share() -> None:
    built, given = method(OFAKD, epsilon=2.0).eval(), batch(4)
    mixed = given._replace(partner_labels=torch.arange(5, 9), mix_lambda=torch.tensor([0.9, 0.5, 0.4, 0.0]))
    expected = built.training_terms(given._replace(labels=torch.tensor([0, 1, 7, 8])))
    for name in ("ofa", "heads"):
        torch.testing.assert_close(built.training_terms(mixed)[name], expected[name])


def test_the_terms_are_those_of_the_final_classifier_and_of_all_heads() -> None:
    built, given = method(OFAKD, ofa_weight=2.0, heads_weight=3.0).eval(), batch()
    seen = built.student.features(given.images, maps=3, logits=True)
    target = built.teacher.features(given.images, logits=True).logits
    terms = built.training_terms(given)
    torch.testing.assert_close(terms["ofa"], 2 * ofa_loss(seen.logits, target, given.labels))
    heads = [ofa_loss(built.heads[str(n)](seen.maps[-n]), target, given.labels) for n in (3, 2, 1)]
    torch.testing.assert_close(terms["heads"], 3 * sum(heads))


def test_stages_of_a_cnn_and_of_a_vit() -> None:
    built = method(OFAKD)
    assert built.stages == [3, 2, 1]  # of four, the first is the stem
    assert {*built.exits} == {3, 2}
    vit = Network("vit_tiny_patch16_224", num_classes=10, model_kwargs={"depth": 12, **VIT})
    built = method(OFAKD, student=vit)
    assert built.stages == [11, 9, 3, 1]  # blocks 2, 4, 10 and 12, as in the released code
    assert [len(built.heads[str(n)].embed[-1]) for n in built.stages] == [3, 2, 1, 1]
    assert all(torch.isfinite(term) for term in built.training_terms(batch()).values())


def test_a_vit_teaches_a_cnn(tmp_path: Path) -> None:
    terms = method(OFAKD, with_weights(tmp_path, "vit_tiny_patch16_224", depth=2, **VIT)).training_terms(batch())
    assert all(torch.isfinite(term) for term in terms.values())


def test_separable_heads_halve_the_maps_and_double_the_channels() -> None:
    head = separable_head(4, 10, width=32, reduction=4, init="fan_out").eval()
    seen = [(m.in_channels, m.out_channels, m.stride[0], m.groups) for m in head.modules() if isinstance(m, nn.Conv2d)]
    first = [(4, 4, 2, 4), (4, 4, 1, 1), (4, 4, 1, 4), (4, 8, 1, 1)]
    assert seen == [*first, (8, 8, 2, 8), (8, 8, 1, 1), (8, 8, 1, 8), (8, 32, 1, 1)]
    assert head(torch.zeros(2, 4, 8, 8)).shape == (2, 10)
    assert head(torch.zeros(2, 4, 1, 1)).shape == (2, 10)
    (one,) = [m for m in separable_head(4, 10, width=32).modules() if isinstance(m, nn.Conv2d)]
    assert (one.kernel_size, one.bias is not None) == ((1, 1), True)


def test_token_heads_merge_patches_down_to_7_to_13_rows() -> None:
    merges = {}
    for grid in (1, 7, 13, 14, 28, 37):
        head = token_head(8, 10, width=12, grid=grid)
        merges[grid] = sum(isinstance(layer, PatchMerging) for layer in head.embed)
        assert head(torch.zeros(2, 8, grid, grid)).shape == (2, 10)
    assert merges == {1: 0, 7: 0, 13: 0, 14: 1, 28: 2, 37: 2}


def test_merged_patches_are_four_neighbours() -> None:
    merging, maps = PatchMerging(2, 3), torch.randn(1, 2, 4, 6)
    neighbours = maps[0, :, 2:4, 4:6].flatten()
    expected = F.gelu(merging.reduction(F.layer_norm(neighbours, (8,))))
    torch.testing.assert_close(merging(maps)[0, :, 1, 2], expected)


def test_without_heads_only_the_final_classifier_learns() -> None:
    built = method(OFAKD, heads_weight=0.0)
    assert {*built.training_terms(batch())} == {"ce", "ofa"}
    assert not built.heads
    assert built.reads.maps == 0


def test_heads_stay_in_the_checkpoint_and_not_in_the_student(tmp_path: Path) -> None:
    built, run = method(OFAKD), trainer(tmp_path)
    run.fit(built, digits())
    run.save_checkpoint(tmp_path / "run.ckpt")
    state = torch.load(tmp_path / "run.ckpt")["state_dict"]
    assert any(name.startswith("heads.3.") for name in state)
    assert {*built.deployed_state(state)} == {*built.student.model.state_dict()}


@pytest.mark.parametrize("stages", [[0], [5], [], [2, 2]])
def test_refusals(stages: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"stages: \[.*\] is given, but cifar_resnet8 has 4 stages; .* from 1 to 4"):
        method(OFAKD, stages=stages, student=student())
    with pytest.raises(ConfigError, match=r"epsilon: 0.0 is not above 0"):
        method(OFAKD, epsilon=0.0)
