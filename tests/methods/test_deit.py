"""DeiT: both forms, the two heads of timm's distilled students, the evaluation by their mean, and other students."""

import pytest
import timm
import torch
import torch.nn.functional as F
from helpers.factories import method, student
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.distillation import Combined
from kd_lightning.functional import kd_loss, mixed_cross_entropy
from kd_lightning.methods import SP, DeiT
from kd_lightning.methods.deit import hard_distillation_loss
from kd_lightning.models import Network

SMALL = {"img_size": 8, "patch_size": 4, "depth": 2, "num_heads": 2, "embed_dim": 16}
DISTILLED = "deit_tiny_distilled_patch16_224"


def distilled() -> Network:
    return Network(DISTILLED, num_classes=10, model_kwargs=SMALL)


def batch(count: int = 6) -> Batch:
    rows = torch.arange(count)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batch(images, rows % 10, rows, rows)


def heads_of(network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of both heads, as timm returns them in training."""
    network.model.set_distilled_training(True)
    network.train()
    both = network.model(network.normalize(images))
    network.model.set_distilled_training(False)
    return both


def test_the_hard_target_is_the_teachers_class() -> None:
    logits, teacher = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[5.0, 7.0, 6.0]])
    assert hard_distillation_loss(logits, teacher).item() == pytest.approx(1.4076059644443804)  # log(1/e + 1 + e)
    torch.testing.assert_close(hard_distillation_loss(logits, 100 * teacher), hard_distillation_loss(logits, teacher))


@pytest.mark.parametrize("form", ["hard", "soft"])
def test_the_class_head_learns_labels_and_the_other_head_the_teacher(form: str) -> None:
    built, given = method(DeiT, student=distilled(), form=form), batch()
    logits, other = heads_of(built.student, given.images)
    assert not torch.allclose(logits, other)
    terms = built.training_terms(given)
    target = built.teacher.features(given.images, logits=True).logits
    assert {*terms} == {"ce", "distillation"}
    if form == "hard":
        expected = {"ce": 0.5 * F.cross_entropy(logits, given.labels)}
        expected["distillation"] = 0.5 * F.cross_entropy(other, target.argmax(dim=1))
    else:
        expected = {"ce": 0.9 * F.cross_entropy(logits, given.labels)}
        expected["distillation"] = 0.1 * kd_loss(other, target, temperature=3)
    torch.testing.assert_close(terms, expected)

    def reaches(term: str, layer: torch.nn.Module) -> bool:
        return torch.autograd.grad(terms[term], layer.weight, retain_graph=True, allow_unused=True)[0] is not None

    model = built.student.model
    assert [reaches("ce", layer) for layer in (model.head, model.head_dist)] == [True, False]
    assert [reaches("distillation", layer) for layer in (model.head, model.head_dist)] == [False, True]


def test_the_evaluation_is_the_mean_of_both_heads() -> None:
    built, given = method(DeiT, student=distilled()), batch()
    both = heads_of(built.student, given.images)
    expected = torch.stack(both).mean(0)
    for mode in (True, False):
        torch.testing.assert_close(built.train(mode)(given.images), expected)
    alone = timm.create_model(DISTILLED, num_classes=10, **SMALL).eval()
    alone.load_state_dict(built.student.model.state_dict())
    torch.testing.assert_close(alone(built.student.normalize(given.images)), expected)


def test_a_network_with_one_head_learns_both_with_it() -> None:
    built, given = method(DeiT, student=student()), batch()
    built.eval()
    logits, target = (n.features(given.images, logits=True).logits for n in (built.student, built.teacher))
    terms = built.training_terms(given)
    torch.testing.assert_close(terms["distillation"], 0.5 * F.cross_entropy(logits, target.argmax(dim=1)))
    torch.testing.assert_close(terms["ce"], 0.5 * F.cross_entropy(logits, given.labels))


def test_other_networks_with_two_heads() -> None:
    small = {"img_size": 32, "embed_dim": (16, 16, 16), "num_heads": (1, 1, 1), "depth": (1, 1, 1), "key_dim": 8}
    built = method(DeiT, student=Network("levit_128s", num_classes=10, size=None, model_kwargs=small))
    terms = built.training_terms(batch())
    gradient = torch.autograd.grad(terms["distillation"], built.student.model.head_dist.linear.weight)[0]
    assert gradient.abs().max() > 0
    assert not torch.allclose(terms["distillation"], terms["ce"])


def test_the_labels_of_mixed_images_are_weighted() -> None:
    built, given = method(DeiT, student=distilled()), batch()
    mixed = given._replace(partner_labels=given.labels.flip(0), mix_lambda=torch.linspace(0, 1, 6))
    logits, _ = heads_of(built.student, given.images)
    expected = 0.5 * mixed_cross_entropy(logits, mixed.labels, mixed.partner_labels, mixed.mix_lambda)
    torch.testing.assert_close(built.training_terms(mixed)["ce"], expected)


def test_weights_follow_the_form_and_can_be_given() -> None:
    assert [method(DeiT, form=form).weights for form in ("hard", "soft")] == [
        {"ce_weight": 0.5, "kd_weight": 0.0, "distillation_weight": 0.5},
        {"ce_weight": 0.9, "kd_weight": 0.0, "distillation_weight": 0.1},
    ]
    assert method(DeiT, ce_weight=2.0, distillation_weight=3.0).weights["distillation_weight"] == 3


def test_without_labels_and_in_a_combination() -> None:
    built = method(DeiT, student=distilled(), ce_weight=0.0)
    assert {*built.training_terms(batch())} == {"distillation"}
    assert not built.needs_labels
    combined = method(Combined, student=distilled(), parts=[SP, DeiT])
    assert {*combined.training_terms(batch())} == {"ce", "sp", "deit_distillation"}
