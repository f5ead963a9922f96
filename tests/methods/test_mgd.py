"""MGD: golden value, masks of whole channels that depend on the sample's key, maps of unequal size, and errors."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import golden
from helpers.factories import method, with_weights
from torch import Tensor, nn

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.methods import MGD
from kd_lightning.methods.mgd import generated_loss
from kd_lightning.models import Features, Network


def test_golden_value() -> None:
    rows, columns = torch.arange(2)[:, None], torch.arange(4)
    mask = ((rows + columns) % 3 != 0)[..., None, None]

    def loss(maps: Tensor) -> Tensor:
        aligned = F.conv2d(maps, golden.weight(1, 4, 3, 1, 1), golden.bias(1, 4)) * mask
        hidden = F.relu(F.conv2d(aligned, golden.weight(2, 4, 4, 3, 3), golden.bias(2, 4), padding=1))
        generated = F.conv2d(hidden, golden.weight(3, 4, 4, 3, 3), golden.bias(3, 4), padding=1)
        return generated_loss(generated, golden.teacher_maps(2, 4, 4, 4))

    golden.check(loss, (golden.student_maps(2, 3, 4, 4),), 61.29528524, 16.493463)


def batch(count: int = 8, epoch: int = 0) -> Batch:
    rows = torch.arange(count)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batch(images, rows % 10, rows, rows + 1000 * epoch)


def masked(built: MGD, given: Batch) -> Tensor:
    """The inputs of the generator."""
    seen: list[Tensor] = []
    handle = built.generator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    built.training_terms(given)
    handle.remove()
    return seen[0].detach()


def test_whole_channels_are_masked_and_the_others_are_not_scaled() -> None:
    built = method(MGD, mask_ratio=0.5).eval()
    aligned = built.align(built.student.features(batch().images, maps=1).maps[-1])
    seen = masked(built, batch())
    zero = (seen == 0).all(dim=(2, 3))
    assert 0.4 < zero.float().mean() < 0.6
    torch.testing.assert_close(seen, aligned * ~zero[..., None, None])


def test_masks_depend_on_the_samples_key_alone() -> None:
    built = method(MGD).eval()
    whole = masked(built, batch())
    assert not torch.equal(whole[0] == 0, whole[1] == 0)
    given = batch()
    part = masked(built, Batch(*(column[2:5] for column in given[:4])))
    assert torch.equal(whole[2:5] == 0, part == 0)
    assert not torch.equal(masked(built, batch(epoch=1)) == 0, whole == 0)


def test_without_a_mask_the_loss_is_that_of_the_generated_map() -> None:
    built = method(MGD, mask_ratio=0.0, mgd_weight=2.0).eval()
    maps, target = golden.student_maps(2, 16, 2, 2).float(), golden.teacher_maps(2, 64, 2, 2).float()
    found = built.losses(Features([maps]), Features([target]), batch(2))["mgd"]
    torch.testing.assert_close(found, (built.generator(built.align(maps)) - target).square().sum())


def test_the_layers_are_those_of_the_released_code() -> None:
    built = method(MGD)
    assert [type(layer) for layer in built.generator] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert all(layer.bias is not None and layer.padding == (1, 1) for layer in built.generator[::2])
    assert [type(layer) for layer in built.align] == [nn.Conv2d]
    equal = method(MGD, student=Network("cifar_resnet20", num_classes=10))
    assert isinstance(equal.align, nn.Identity)


def test_the_larger_map_is_pooled(tmp_path: Path) -> None:
    vit = {"img_size": 8, "patch_size": 2, "depth": 2, "num_heads": 2, "embed_dim": 16}  # 4 x 4 positions
    teacher = with_weights(tmp_path, "vit_tiny_patch16_224", **vit)
    student = Network("vit_tiny_patch16_224", num_classes=10, model_kwargs=vit)
    for built in (method(MGD, teacher), method(MGD, student=student)):
        assert masked(built, batch()).shape[-2:] == (2, 2)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"mask_ratio: 1.5 is not between 0 and 1"):
        method(MGD, mask_ratio=1.5)
