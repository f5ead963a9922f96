"""ResidualKD: golden values, the sum of student and assistant, gradients, and refusals."""

from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, student, with_weights

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import ResidualKD
from kd_lightning.methods.residual_kd import residual_losses
from kd_lightning.models import Network

SHAPE = (2, 3, 4, 4)
VIT = {"img_size": 8, "patch_size": 4, "depth": 2, "num_heads": 2}


def batch(count: int = 8) -> Batch:
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(count)
    return Batch(images, rows % 10, rows, rows)


def test_golden_values() -> None:
    maps = golden.student_maps(*SHAPE), 0.5 * golden.teacher_maps(*SHAPE)
    target = golden.teacher_maps(*SHAPE)
    golden.check(lambda s, a: residual_losses(s, a, target), maps, [1.084392452, 0.6414291953], 0.26815897)


def test_the_residual_is_a_target_that_does_not_change_the_student() -> None:
    ours, theirs = golden.student_maps(*SHAPE).requires_grad_(), golden.teacher_maps(*SHAPE)
    _, of_assistant = residual_losses(ours, theirs.clone().requires_grad_(), theirs)
    assert torch.autograd.grad(of_assistant, ours, allow_unused=True) == (None,)
    none = residual_losses(theirs, torch.zeros_like(theirs), theirs)
    assert [loss.item() for loss in none] == [0, 0]
    exact = residual_losses(ours.detach(), theirs - ours.detach(), theirs)[1]
    assert exact < 1e-30


def gradients(built: ResidualKD, names: list[str]) -> dict[str, set[str]]:
    """The networks of the method that each of these terms changes."""
    terms = built.training_terms(batch())
    found = {}
    for name in names:
        built.zero_grad()
        terms[name].backward(retain_graph=True)
        changed = {key.partition(".")[0] for key, value in built.named_parameters() if value.grad is not None}
        found[name] = {key for key in changed if key in ("student", "assistant")}
    return found


def test_each_term_trains_what_the_docstring_says() -> None:
    both = {"student", "assistant"}
    expected = {"mimic": {"student"}, "residual": {"assistant"}, "ce": both, "kd": both}
    assert gradients(method(ResidualKD, kd_weight=1.0), [*expected]) == expected
    alone = {**expected, "ce": {"student"}, "kd": {"student"}}
    assert gradients(method(ResidualKD, kd_weight=1.0, trained_logits="student"), [*expected]) == alone


def test_the_deployed_logits_are_those_of_the_summed_maps() -> None:
    built = method(ResidualKD, assistant=Network("cifar_resnet14", model_kwargs={"channels": [4, 4, 8, 24]})).eval()
    images = batch().images
    assert built.assistant.num_classes == 0
    assert built.connector.weight.shape == (16, 24)
    ours, more = (network.features(images, final=True).final for network in (built.student, built.assistant))
    summed = ours + torch.einsum("dc,nchw->ndhw", built.connector.weight, more)
    head = built.student.model.fc
    torch.testing.assert_close(built(images), summed.mean((2, 3)) @ head.weight.T + head.bias)
    terms = built.training_terms(batch())
    torch.testing.assert_close(terms["ce"], torch.nn.functional.cross_entropy(built(images), batch().labels))


def widths(*outputs: int) -> dict[str, object]:
    return {"channels": [4, 4, 8, *outputs]}


def test_the_losses_compare_the_maps_in_the_width_of_the_teacher(tmp_path: Path) -> None:
    built = method(ResidualKD, with_weights(tmp_path, "cifar_resnet8", **widths(24))).eval()
    assert built.regressor.weight.shape == (24, 16, 1, 1)
    ours, more, theirs = (
        network.features(batch().images, final=True).final
        for network in (built.student, built.assistant, built.teacher)
    )
    mapped = built.regressor(ours)
    terms = built.training_terms(batch())
    torch.testing.assert_close(terms["mimic"], (mapped - theirs).square().mean())
    residual = theirs - mapped
    torch.testing.assert_close(terms["residual"], (built.regressor(more) - residual).square().mean())


def with_vit(tmp_path: Path, teacher: str, **kwargs: object) -> ResidualKD:
    ours = Network("vit_tiny_patch16_224", num_classes=10, model_kwargs={"embed_dim": 16, **VIT})
    return method(ResidualKD, with_weights(tmp_path, teacher, **kwargs), student=ours).eval()


def test_token_sequences_are_compared_with_the_class_token(tmp_path: Path) -> None:
    built = with_vit(tmp_path, "vit_tiny_patch16_224", embed_dim=32, **VIT)
    ours = built.student.features(batch().images, tokens=True).tokens
    mapped = ours @ built.regressor.weight[:, :, 0, 0].T
    expected = (mapped - built.teacher.features(batch().images, tokens=True).tokens).square().mean()
    torch.testing.assert_close(built.training_terms(batch())["mimic"], expected)


def test_other_positions_are_pooled_and_the_class_token_is_left_out(tmp_path: Path) -> None:
    built = with_vit(tmp_path, "cifar_resnet8", **widths(16))
    ours = built.student.features(batch().images, maps=1).maps[0]
    theirs = built.teacher.features(batch().images, maps=1).maps[0]
    torch.testing.assert_close(built.training_terms(batch())["mimic"], (ours - theirs).square().mean())


def test_the_assistant_sees_the_images_as_the_student() -> None:
    built = method(ResidualKD, student=student(mean=(0.1, 0.2, 0.3), size=16), assistant=student())
    assert built.assistant.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert built.assistant.size == built.deployed.size == 16


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="residual_weight: 0 is given, so no term trains the assistant"):
        method(ResidualKD, residual_weight=0, trained_logits="student")
    with pytest.raises(ConfigError, match="mimic_weight: 0 is given, so no term trains the student"):
        method(ResidualKD, mimic_weight=0, ce_weight=0)
    with pytest.raises(ConfigError, match=r"assistant.dtype: torch.bfloat16 is given, but only a teacher can have"):
        method(ResidualKD, assistant=Network("cifar_resnet8", dtype="bfloat16"))
    other = Network("test_resnet", num_classes=0)
    with pytest.raises(ConfigError, match=r"assistant.name: the final features of test_resnet have the shape"):
        method(ResidualKD, assistant=other).training_terms(batch())
    assert method(ResidualKD, ce_weight=0).needs_labels is False
    method(ResidualKD, ce_weight=0).check_data(digits())
