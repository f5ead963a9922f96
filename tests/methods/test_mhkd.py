"""MHKD: golden value, teacher heads that are not pulled to the student, small maps, exits, and errors."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, trainer, with_weights
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import Combined
from kd_lightning.errors import ConfigError
from kd_lightning.functional import cross_entropy, mixed_cross_entropy
from kd_lightning.methods import MHKD, RKD
from kd_lightning.methods.mhkd import head_loss
from kd_lightning.models import Network


def total(final: Tensor, head: Tensor, teacher_head: Tensor) -> Tensor:
    """The loss of a student with one head, with the default weights."""
    labels = golden.LABELS
    losses = [head_loss(final, golden.teacher_logits(), labels=labels)]
    losses += [cross_entropy(teacher_head, labels), 0.5 * head_loss(head, teacher_head, labels=labels)]
    return torch.stack(losses).sum()


def test_golden_value() -> None:
    """The gradient of the third-party code has the same norm, because the student's logits are its inputs."""
    inputs = golden.student_logits(), golden.student_logits(1)
    golden.check(lambda *given: total(*given, golden.teacher_logits(1)), inputs, 5.786710657, 0.35330025)


def test_the_divergence_does_not_pull_the_teachers_head() -> None:
    """In the third-party code it does: there, the head's gradient is not that of its cross-entropy."""
    head = golden.teacher_logits(1).requires_grad_()
    (found,) = torch.autograd.grad(total(golden.student_logits(), golden.student_logits(1), head), head)
    (expected,) = torch.autograd.grad(cross_entropy(head, golden.LABELS), head)
    assert torch.equal(found, expected)


def batch(side: int = 8, count: int = 6) -> Batch:
    rows = torch.arange(count)
    images = torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return Batch(images, rows % 10, rows, rows)


def test_the_heads_of_the_teacher_learn_only_labels_and_the_teacher_nothing() -> None:
    built = method(MHKD)
    terms = built.training_terms(batch())
    assert {*terms} == {"ce", "kd", "heads", "teacher_heads"}

    def reached(term: str, parameters: Iterable[nn.Parameter]) -> set[bool]:
        found = torch.autograd.grad(terms[term], [*parameters], retain_graph=True, allow_unused=True)
        return {gradient is not None for gradient in found}

    assert reached("heads", built.heads.parameters()) == {True}
    assert reached("heads", built.teacher_heads.parameters()) == {False}
    assert reached("teacher_heads", built.teacher_heads.parameters()) == {True}
    assert reached("teacher_heads", [*built.heads.parameters(), *built.student.parameters()]) == {False}
    assert all(not parameter.requires_grad for parameter in built.teacher.parameters())


def test_mixed_labels_are_used_at_the_heads() -> None:
    built, given = method(MHKD, alpha=0.0).eval(), batch()
    mixed = given._replace(partner_labels=given.labels.flip(0), mix_lambda=torch.linspace(0, 1, 6))
    labels = (mixed.labels, mixed.partner_labels, mixed.mix_lambda)
    with torch.no_grad():
        maps = built.student.features(given.images, maps=3).maps
        logits = [built.heads[name](maps[-int(name)]) for name in ("3", "2")]
        expected = 0.5 * sum(mixed_cross_entropy(each, *labels) for each in logits)
        torch.testing.assert_close(built.training_terms(mixed)["heads"], expected)


@pytest.mark.parametrize("side", [4, 8, 13])
def test_maps_of_any_size_have_heads(side: int) -> None:
    """At a side of 4 pixels, the map of the second stage from the last has 2 x 2 positions."""
    built = method(MHKD)
    assert all(torch.isfinite(term) for term in built.training_terms(batch(side)).values())
    built.eval()
    images = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    assert built.heads["2"](built.student.stage_map(images, 2)).shape == (1, 10)


def test_stages_of_vits_and_convolutional_networks_are_counted_from_the_last(tmp_path: Path) -> None:
    small = {"img_size": 8, "patch_size": 4, "num_heads": 2, "embed_dim": 16}
    teacher = with_weights(tmp_path, "vit_tiny_patch16_224", depth=8, **small)
    assert method(MHKD, teacher).stages == [3, 2]  # the student has 4 stages
    student = Network("vit_tiny_patch16_224", num_classes=10, model_kwargs={"depth": 8, **small})
    built = method(MHKD, teacher, student=student)
    assert built.stages == [7, 5, 3]
    assert {*built.exits} == {7, 5, 3}
    assert all(torch.isfinite(term) for term in built.training_terms(batch()).values())


def test_exits_stay_in_the_checkpoint_and_not_in_the_student(tmp_path: Path) -> None:
    built, run = method(MHKD, stages=[2]), trainer(tmp_path)
    run.fit(built, digits())
    run.save_checkpoint(tmp_path / "run.ckpt")
    state = torch.load(tmp_path / "run.ckpt")["state_dict"]
    assert any(name.startswith("heads.2.") for name in state)
    assert not any(name.startswith("teacher.") for name in state)
    assert built.deployed is built.student
    assert {*built.deployed_state(state)} == {*built.student.model.state_dict()}


def test_a_part_of_a_combination_keeps_its_exits() -> None:
    def part(**networks: Network) -> MHKD:
        return MHKD(head_width=8, **networks)

    built = method(Combined, parts=[RKD, part])
    assert {*built.exits} == {3, 2}
    assert built.exits[3] is built.parts["mhkd"].heads["3"]
    assert built.needs_labels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": [1]}, r"stages: 1 is given, but cifar_resnet8 has 4 stages, .* choose 2 to 4"),
        ({"stages": [3, 5]}, r"stages: 5 is given, but cifar_resnet8 has 4 stages, .* choose 2 to 4"),
        ({"stages": []}, r"stages: \[\] is given; give the numbers of one or more stages"),
        ({"stages": [2, 2]}, r"stages: \[2, 2\] is given; .* each only once"),
        ({"head_width": 0}, "head_width: 0 is not above 0"),
        ({"temperature": 0.0}, "^temperature: 0.0 is not above 0"),
        ({"alpha": 1.5}, "alpha: 1.5 is not between 0 and 1"),
        ({"ce_weight": 0.0, "kd_weight": 0.0}, "ce_weight: 0 is given, and kd_weight is 0, but without labels"),
        ({"teacher_heads_weight": 0.0}, "teacher_heads_weight: 0 is given, but the heads of the student learn from"),
    ],
)
def test_refusals(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method(MHKD, **arguments)


def test_labels_are_needed() -> None:
    """ce_weight 0 is no remedy, because the heads need labels as well."""
    built, data = method(MHKD), digits()
    data.labeled = False
    with pytest.raises(ConfigError, match=r"^data.labeled: MHKD reads labels, but the data have none; choose a method"):
        built.check_data(data)
    assert built.ce_weight == 0.9
    with pytest.raises(ConfigError, match=r"^data.labeled: heads on stages learn from labels, but the data have no"):
        method(MHKD, student=Network("cifar_resnet8", num_classes=0))


def test_terms_with_the_weight_0_read_no_labels() -> None:
    built = method(MHKD, ce_weight=0.0, heads_weight=0.0, teacher_heads_weight=0.0)
    assert not built.needs_labels
    unlabelled = batch()._replace(labels=torch.full((6,), -1))
    assert {*built.training_terms(unlabelled)} == {"kd"}
