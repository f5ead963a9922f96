"""Masked tokens: the pixels below them are not read, the token learns, the network stays as it was."""

import pytest
import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.models import Features, Masked, Network, Reads

NAMES = ["vit_tiny_patch16_224", "beit_base_patch16_224", "eva02_tiny_patch14_224", "deit_tiny_distilled_patch16_224"]
ALL = Reads(maps=1, tokens=True, attention=True, embedding=True, logits=True)._asdict()
MASK = torch.tensor([[True, False, False, True], [False, False, True, False]])


def vit(name: str = NAMES[0], **kwargs: object) -> Network:
    small = {"img_size": 16, "patch_size": 8, "depth": 2, "embed_dim": 16, "num_heads": 2, **kwargs}
    return Network(name, num_classes=3, model_kwargs=small).eval()


def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def equal(one: Features, other: Features) -> bool:
    flat = [[*seen.maps, *(x for x in seen[2:] if x is not None)] for seen in (one, other)]
    return all(torch.equal(x, y) for x, y in zip(*flat, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_pixels_below_a_mask_are_not_read_and_all_others_are(name: str) -> None:
    network, given = vit(name), images()
    token = network.mask_token()
    with torch.no_grad():
        seen = network.features(Masked(given, MASK, token), **ALL)
        below, beside = given.clone(), given.clone()
        below[0, :, :8, :8] = below[0, :, 8:, 8:] = below[1, :, 8:, :8] = 0.5
        beside[0, :, :8, 8:] = 0.5
        assert equal(seen, network.features(Masked(below, MASK, token), **ALL))
        assert not equal(seen, network.features(Masked(beside, MASK, token), **ALL))
        assert not equal(seen, network.features(given, **ALL))


def test_the_token_learns_and_the_network_is_as_before() -> None:
    network, given = vit(), images()
    names, before = [*network.state_dict()], network(given)
    token = network.mask_token()
    network.features(Masked(given, MASK, token), embedding=True).embedding.square().sum().backward()
    assert token.grad.abs().sum() > 0
    assert network.model.patch_embed.proj.weight.grad.abs().sum() > 0
    assert [*network.state_dict()] == names
    assert not network.model.patch_embed._forward_hooks
    assert torch.equal(network(given), before)
    nothing = network.features(Masked(given, torch.zeros_like(MASK), token), logits=True)
    assert torch.equal(nothing.logits, before)


def test_images_of_any_size_and_half_precision() -> None:
    network = vit(dynamic_img_size=True)
    network.size = None
    mask = torch.arange(8).view(1, 8) % 2 == 0
    seen = network.features(Masked(torch.rand(1, 3, 16, 32), mask, network.mask_token()), tokens=True)
    assert seen.tokens.shape == (1, 9, 16)
    with torch.autocast("cpu", torch.bfloat16):
        seen = network.features(Masked(images(), MASK, network.mask_token()), tokens=True)
    assert seen.tokens.isfinite().all()


@pytest.mark.e2e
def test_it_compiles() -> None:
    network, given = vit(), images()
    token = network.mask_token()

    def logits(mask: Tensor) -> Tensor:
        return network.features(Masked(given, mask, token), logits=True).logits + network(given)

    compiled = torch.compile(logits, backend="eager")
    for mask in (MASK, ~MASK):
        torch.testing.assert_close(compiled(mask), logits(mask))


def test_refusals() -> None:
    for name in ("cifar_resnet8", "resnet18"):
        with pytest.raises(ConfigError, match=f"^{name}: this network has no patch tokens to mask; choose a ViT"):
            Network(name).mask_token()
    network = vit()
    with pytest.raises(
        ConfigError, match=r"the mask has the shape \(2, 3\), but 2 images with 4 patches each need the shape \(2, 4\)"
    ):
        network.features(Masked(images(), MASK[:, :3], network.mask_token()), logits=True)


@pytest.mark.parametrize(
    ("mask", "token", "line"),
    [
        (torch.ones(1, 4), torch.zeros(48), "the mask must be a bool tensor, not torch.float32"),
        (None, torch.zeros(48), "the mask must be a bool tensor, not NoneType"),
        (torch.ones(1, 4, dtype=torch.bool), torch.zeros(3), "the token must be a float tensor of"),
        (torch.ones(1, 4, dtype=torch.bool), None, "the token must be a float tensor of"),
    ],
)
def test_a_mask_or_token_of_another_type(mask: object, token: object, line: str) -> None:
    network = Network("vit_tiny_patch16_224", num_classes=2, model_kwargs={"img_size": 32, "depth": 1})
    with pytest.raises(ConfigError, match=line):
        network.features(Masked(torch.zeros(1, 3, 32, 32), mask, token), tokens=True)
