"""ReviewKD: golden values, the fusions, the maps that are read, the warm-up, and refusals."""

from pathlib import Path

import pytest
import torch
from helpers import golden
from helpers.factories import digits, method, student, trainer, with_weights
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import ReviewKD
from kd_lightning.methods.reviewkd import AttentionFusion, hcl_loss
from kd_lightning.models import Network, Reads

STAGES = ((2, 4, 8, 8), (2, 6, 4, 4))
VIT = {"img_size": 8, "patch_size": 4, "depth": 4, "num_heads": 2, "embed_dim": 16}


def test_golden_value() -> None:
    taught = [golden.teacher_maps(*shape) for shape in STAGES]
    maps = tuple(golden.student_maps(*shape) for shape in STAGES)
    golden.check(lambda *own: hcl_loss(own, taught), maps, 1.437826597, 0.12559925)
    assert hcl_loss(taught, taught) == 0


def test_levels_are_below_the_size_and_their_weights_are_halved() -> None:
    own, taught = golden.student_maps(2, 3, 4, 4), golden.teacher_maps(2, 3, 4, 4)
    errors = [nn.functional.adaptive_avg_pool2d(own - taught, size).square().mean() for size in (4, 2, 1)]
    expected = (errors[0] + errors[1] / 2 + errors[2] / 4) / 1.75
    torch.testing.assert_close(hcl_loss([own], [taught]), expected)
    low = own[:, :, :1], taught[:, :, :1]  # 1 x 4 positions
    errors = [nn.functional.adaptive_avg_pool2d(low[0] - low[1], (1, w)).square().mean() for w in (4, 2, 1)]
    torch.testing.assert_close(hcl_loss([low[0]], [low[1]]), (errors[0] + errors[1] / 2 + errors[2] / 4) / 1.75)


def fusion(channels: int, output: int, numbers: tuple[int, int], attention: int | None = None) -> AttentionFusion:
    """Return a fusion with the weights of the golden values, with 5 channels."""
    built = AttentionFusion(channels, 5, output, deepest=attention is None).double()
    with torch.no_grad():
        for layers, number in zip((built.reduce, built.expand), numbers, strict=True):
            layers[0].weight.copy_(golden.weight(number, *layers[0].weight.shape))
        if attention is not None:
            built.attention.weight.copy_(golden.weight(attention, *built.attention.weight.shape))
            built.attention.bias.copy_(golden.bias(attention, 2))
    return built


def test_golden_value_of_the_fusions() -> None:
    fusions = [fusion(5, 8, (1, 2)), fusion(4, 6, (3, 4), 5), fusion(3, 4, (6, 7), 8)]
    taught = [golden.teacher_maps(4, *shape) for shape in ((8, 1, 1), (6, 4, 4), (4, 8, 8))]

    def loss(*maps: Tensor) -> Tensor:
        fused, outputs = None, []
        for each, own, target in zip(fusions, maps, taught, strict=True):
            output, fused = each(own, fused, target.shape[-2:])
            outputs.append(output)
        return hcl_loss(outputs, taught)

    maps = tuple(golden.student_maps(4, *shape) for shape in ((5, 1, 1), (4, 4, 4), (3, 8, 8)))
    golden.check(loss, maps, 3.861659743, 0.03911238)


def test_the_initial_weights_are_those_of_the_released_code() -> None:
    built = method(ReviewKD)
    for layers in (layers for each in built.fusions for layers in (each.reduce, each.expand)):
        bound = (3 / layers[0].weight[0].numel()) ** 0.5  # uniform with the variance 1 / fan_in
        assert 0.7 * bound < layers[0].weight.abs().max() <= bound
        assert layers[0].bias is None
        assert isinstance(layers[-1], nn.BatchNorm2d)


def test_the_term_is_the_loss_of_fused_maps_from_the_deepest_to_the_first() -> None:
    built = method(ReviewKD, reviewkd_weight=3.0).eval()
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    own = built.student.features(images, **built.reads._asdict())
    taught = built.teacher_features(images, built.teacher_reads)
    assert len(built.fusions) == 4
    top, fused = built.fusions[0](own.embedding[..., None, None], None, (1, 1))
    outputs, targets = [top], [taught.embedding[..., None, None]]
    for number in (1, 2, 3):
        target = taught.preactivations[-number]
        output, fused = built.fusions[number](own.maps[-number], fused, target.shape[-2:])
        outputs, targets = [*outputs, output], [*targets, target]
    assert fused.shape[-2:] == own.maps[-3].shape[-2:]
    rows = torch.arange(4)
    term = built.training_terms(Batch(images, rows, rows, rows))["reviewkd"]
    torch.testing.assert_close(term, 3 * hcl_loss(outputs, targets))


def test_the_maps_that_are_read(tmp_path: Path) -> None:
    built = method(ReviewKD)
    assert built.reads == Reads(maps=3, embedding=True)
    assert built.teacher_reads == Reads(preactivations=3, embedding=True)
    both = method(ReviewKD, student_preactivations=True, teacher_preactivations=False, layers=2)
    assert both.reads == Reads(preactivations=2, embedding=True)
    assert both.teacher_reads == Reads(maps=2, embedding=True)
    vit = method(ReviewKD, with_weights(tmp_path, "vit_tiny_patch16_224", **VIT))
    assert vit.teacher_reads == Reads(maps=3, embedding=True)


@pytest.mark.parametrize("name", ["cifar_vgg8", "cifar_mobilenetv2", "cifar_wrn_16_1", "cifar_shufflenetv2"])
def test_networks_of_other_shapes(name: str, tmp_path: Path) -> None:
    """The fusions fit the pre-activations of other networks, whose maps are larger, smaller, or wider."""
    built = method(ReviewKD, with_weights(tmp_path, name), student=Network(name, num_classes=10))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    rows = torch.arange(2)
    assert torch.isfinite(built.training_terms(Batch(images, rows, rows, rows))["reviewkd"])


def test_the_weight_rises_over_the_warm_up(tmp_path: Path) -> None:
    built, factors = method(ReviewKD, warmup=0.5), []
    built.log_dict = lambda found, **kwargs: factors.append(built.ramp("warmup").item())
    trainer(tmp_path, max_epochs=4).fit(built, digits(max_train_samples=50))
    assert factors == [0.5, 1, 1, 1]
    first = method(ReviewKD, warmup=4, reviewkd_weight=2.0)
    last = method(ReviewKD, first.teacher, student=first.student, warmup=0, reviewkd_weight=2.0)
    last.load_state_dict(first.state_dict())
    assert (first.ramp("warmup"), last.ramp("warmup")) == (0.25, 1)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layers: 9 is given, but cifar_resnet8 has 4 stages"):
        method(ReviewKD, layers=9)
    with pytest.raises(ConfigError, match=r"data.batch_size: ReviewKD needs at least 2 images per batch"):
        trainer(tmp_path).fit(method(ReviewKD), digits(batch_size=1))
    vit = Network("vit_tiny_patch16_224", num_classes=10, model_kwargs=VIT)
    built = method(ReviewKD, student=vit, student_preactivations=True)
    with pytest.raises(ConfigError, match="vit_tiny_patch16_224: this network has no pre-activation maps"):
        trainer(tmp_path).fit(built, digits())
    assert method(ReviewKD, student=student(0), ce_weight=0).needs_labels is False
