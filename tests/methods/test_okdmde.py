"""OKDMDE: golden values, branches, the kept network, and refusals."""

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.distillation import branches
from kd_lightning.distillation.branches import can_be_cut
from kd_lightning.errors import ConfigError
from kd_lightning.functional import kd_loss
from kd_lightning.methods import OKDMDE
from kd_lightning.methods.okdmde import classifier_diversity, ensemble_losses
from kd_lightning.models import Network
from kd_lightning.models.composites import Fusion
from kd_lightning.models.composites.branch_ensemble import cut

VIT = {"img_size": 8, "patch_size": 4, "depth": 4, "num_heads": 2, "embed_dim": 16}


def batch(count: int = 8) -> Batch:
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(count)
    return Batch(images, rows % 10, rows, rows)


def total(one: Tensor, two: Tensor, three: Tensor, fused: Tensor) -> Tensor:
    return sum(ensemble_losses([one, two, three], fused, golden.LABELS, temperature=3.0))


def test_golden_values() -> None:
    logits = *(golden.student_logits(start) for start in range(3)), golden.teacher_logits()
    golden.check(total, logits, 12.46051605, 0.87424805)
    weights = tuple(golden.weight(number, 5, 8) for number in (1, 2, 3))
    golden.check(lambda *each: classifier_diversity(each), weights, 6.408930215, 4.9492979)
    fusion = Fusion(8, 3, 5).double()
    fusion.gate.weight = nn.Parameter(golden.weight(7, 3, 24))
    embeddings = golden.student(6, 8), golden.teacher(6, 8), golden.student(6, 8, 1)
    golden.check(lambda *each: fusion([*each]).sum(), embeddings, 4.099837719, 4.0342865)


def test_defects_of_released_code_are_told_apart() -> None:
    """Third-party code does not detach the target, averages over the classes as well, and detaches the classifiers."""
    fused = golden.teacher_logits().requires_grad_()
    *_, divergence = ensemble_losses([golden.student_logits()], fused, golden.LABELS, temperature=3.0)
    assert not divergence.requires_grad
    assert divergence.item() == pytest.approx(kd_loss(golden.student_logits(), fused, temperature=3.0).item())
    built = method(OKDMDE, diversity_weight=1.0)
    built.training_terms(batch())["diversity"].backward()
    assert all(layer.weight.grad.abs().max() > 0 for layer in (built.student.model.fc, *built.classifiers))


def test_the_branches_begin_with_the_students_map() -> None:
    built = method(OKDMDE, student=Network("cifar_resnet14", num_classes=10), branches=4).eval()
    assert len(built.branches) == 3
    for branch in built.branches:
        assert {name.partition(".")[0] for name in branch.state_dict()} == {"layer3"}
    assert not any(torch.equal(layer.weight, built.student.model.fc.weight) for layer in built.classifiers)
    built.branches[0].load_state_dict(built.student.model.state_dict(), strict=False)
    seen = built.student.features(batch().images, maps=2, embedding=True)
    torch.testing.assert_close(built.branches[0](seen.maps[0]), seen.embedding)


def test_mixed_images_have_two_labels() -> None:
    built = method(OKDMDE).eval()
    plain = built.training_terms(batch())
    same = batch()._replace(partner_labels=batch().labels, mix_lambda=torch.full((8,), 0.3))
    mixed = built.training_terms(same)
    torch.testing.assert_close(mixed, plain)
    other = built.training_terms(same._replace(partner_labels=batch().labels.flip(0)))
    assert all(not torch.isclose(other[name], plain[name]) for name in ("ce", "fused_ce"))


def test_the_kept_network_is_a_branch_or_the_ensemble() -> None:
    images = batch().images
    branch = method(OKDMDE).eval()
    assert branch.deployed is branch.student
    ensemble = method(OKDMDE, keep="ensemble").eval()
    state = ensemble.state_dict()
    assert {name for name in state if name.startswith("classifiers")} == {
        f"classifiers.{number}.{name}" for number in range(2) for name in ("weight", "bias")
    }
    maps = ensemble.student.features(images, maps=2, embedding=True)
    models = [ensemble.student.model, *ensemble.branches]
    tails = [model.layer3(maps.maps[0]).mean((2, 3)) for model in models]
    shares = (torch.cat(tails, dim=1) @ ensemble.fusion.gate.weight.T).softmax(dim=1)
    fused = sum(share[:, None] * tail for share, tail in zip(shares.unbind(1), tails, strict=True))
    torch.testing.assert_close(ensemble(images), ensemble.fusion.classifier(fused))
    parts = [*ensemble.student.parameters(), *ensemble.branches.parameters(), *ensemble.fusion.parameters()]
    assert ensemble.deployed.parameter_count() == sum(value.numel() for value in parts)
    assert not any("classifiers" in name or "branches.0.fc" in name for name in ensemble.deployed_state(state))


@pytest.mark.parametrize(
    ("name", "kwargs", "stages"),
    [
        ("cifar_resnet8", {}, 4),
        ("cifar_vgg8", {}, 5),  # pooling between its stages is no module
        ("cifar_wrn_16_1", {}, 4),  # its maps precede a ReLU
        ("cifar_mobilenetv2", {}, 5),  # it has a convolution after the last map
        ("test_resnet", {}, 5),
        ("test_convnext", {}, 4),
        ("vit_tiny_patch16_224", VIT, 0),  # its maps have no class token
    ],
)
def test_where_networks_can_be_cut(name: str, kwargs: dict, stages: int) -> None:
    network = Network(name, num_classes=10, model_kwargs=kwargs)
    found = [layer for layer in range(1, len(network.model.feature_info) + 1) if can_be_cut(network, layer)]
    assert found == [*range(1, stages + 1)]


def test_a_wrong_cut_is_seen_and_the_other_places_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late(model: nn.Module, layer: int) -> nn.Module:
        return cut(model, max(layer, 2) - 1)

    monkeypatch.setattr(branches, "cut", too_late)
    same_shape = Network("cifar_resnet8", num_classes=10, model_kwargs={"channels": [4, 8, 8, 8]})
    with pytest.raises(ConfigError, match=r"layer: cifar_resnet8 cannot be cut after stage 2; choose one of 1$"):
        method(OKDMDE, student=same_shape)


def test_refusals() -> None:
    with pytest.raises(
        ConfigError, match=r"^model.student.name: vit_tiny_patch16_224 cannot be cut into .*cifar_resnet20"
    ):
        method(OKDMDE, student=Network("vit_tiny_patch16_224", num_classes=10, model_kwargs=VIT))
    with pytest.raises(ConfigError, match="layer: 5 is given, but cifar_resnet8 has 4 stages; choose 1 to 4"):
        method(OKDMDE, layer=5)
    with pytest.raises(ConfigError, match="branches: 1 is given, but OKDMDE needs 2 or more"):
        method(OKDMDE, branches=1)
    with pytest.raises(ConfigError, match="fused_ce_weight: 0 is given"):
        method(OKDMDE, fused_ce_weight=0)
    with pytest.raises(
        ConfigError, match="ce_weight: 0 is given, and branch_kd_weight is 0, so no term trains the class"
    ):
        method(OKDMDE, ce_weight=0, branch_kd_weight=0)
    method(OKDMDE, ce_weight=0, branch_kd_weight=0, keep="ensemble")
    with pytest.raises(
        ConfigError, match=r"^data.labeled: OKDMDE reads labels, but the data have none, and no classes"
    ):
        method(OKDMDE, student=Network("cifar_resnet8", num_classes=0))
    data = digits()
    data.labeled = False
    with pytest.raises(ConfigError, match=r"data.labeled: OKDMDE reads labels, but the data have none"):
        method(OKDMDE).check_data(data)
