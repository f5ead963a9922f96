"""Features that lie inside a network: pre-activations, attention, maps of every family of timm."""

import copy
from unittest.mock import patch

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.models import Features, Network, Reads
from kd_lightning.models.cifar.shufflenetv1 import shuffle_channels

TINY_VIT = {"img_size": 32, "patch_size": 8, "depth": 2}
OURS = [
    "cifar_resnet8",
    "cifar_resnet8x4",
    "cifar_resnet50",
    "cifar_vgg8",
    "cifar_mobilenetv2",
    "cifar_shufflenetv1",
    "cifar_shufflenetv2_x0_5",
    "cifar_wrn_16_1",
]
# shallow and narrow; the last batch norm of a block counts from the start
KEPT = {"zero_init_last": False, "layers": (2, 1, 1, 1), "channels": (16, 16, 32, 32)}
RESNETS = {
    "resnet18": {**KEPT, "drop_path_rate": 0.2},
    "resnet50": {**KEPT, "drop_path_rate": 0.2, "drop_block_rate": 0.1},
    "resnetblur50": KEPT,
    "seresnet50": KEPT,
    "resnet10t": KEPT,
    "resnet26d": KEPT,
    "resnetaa50": KEPT,
    "skresnet18": KEPT,
    "resnest14d": KEPT,
    "res2net50_14w_8s": KEPT,
}
VITS = {
    "vit_tiny_patch16_224": (TINY_VIT, 17),
    "vit_wee_patch16_reg1_gap_256": (TINY_VIT, 17),
    "vit_pwee_patch16_reg1_gap_256": (TINY_VIT, 17),  # attention and MLP in parallel
    "deit_tiny_distilled_patch16_224": (TINY_VIT, 18),
    "eva02_tiny_patch14_224": ({"img_size": 28, "depth": 2}, 5),
    "vit_relpos_small_patch16_224": (TINY_VIT, 16),
    "beit_base_patch16_224": ({"img_size": 32, "depth": 1}, 5),
}


def images(count: int = 3, side: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build(name: str, train: bool = True, **kwargs: object) -> Network:
    torch.manual_seed(0)
    return Network(name, num_classes=7, model_kwargs=kwargs).train(train)


def seen(network: Network, **reads: object) -> Features:
    """The features of one pass, with the random numbers of seed 1."""
    torch.manual_seed(1)
    return network.features(images(side=network.size or (8 if network.name == "cifar_resnet50" else 32)), **reads)


def assert_equal(ours: Features, others: Features) -> None:
    for name, one, other in zip(Features._fields, ours, others, strict=True):
        pairs = zip(one, other, strict=True) if isinstance(one, list) else [(one, other)]
        assert all(a is b is None or torch.equal(a, b) for a, b in pairs), name


def activated(name: str, preactivations: list[Tensor], maps: list[Tensor]) -> list[Tensor]:
    """The maps that a network of ours makes of its pre-activations."""
    if "mobilenet" in name:
        return [F.relu(preactivations[0]), *preactivations[1:]]
    if "shufflenetv2" in name:
        return [F.relu(preactivations[0]), *(shuffle_channels(F.relu(x), 2) for x in preactivations[1:])]
    if "wrn" in name:
        return maps  # a batch norm lies between map and pre-activation
    return [F.relu(x) for x in preactivations]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", [*OURS, *RESNETS])
def test_the_activation_of_preactivations_is_the_map(name: str, train: bool) -> None:
    network = build(name, train, **RESNETS.get(name, {}))
    other, count = copy.deepcopy(network), len(network.model.feature_info)
    usual = {"maps": count, "embedding": True, "logits": True}
    both, plain = seen(network, preactivations=count, **usual), seen(other, **usual)
    assert_equal(both._replace(preactivations=[]), plain)  # one pass: also the same random numbers
    for key, value in network.state_dict().items():  # and the same running statistics
        assert torch.equal(value, other.state_dict()[key]), key
    expected = activated(name, both.preactivations, both.maps)
    if name in RESNETS:
        act = network.model.act1
        expected = [act(x.clone()) for x in both.preactivations]
    assert len(both.preactivations) == count
    assert all(torch.equal(a, b) for a, b in zip(expected, both.maps, strict=True))
    assert all((x < 0).any() for x in both.preactivations)  # not overwritten in place
    both.preactivations[-1].sum().backward()
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert [m.inplace for m in network.modules() if hasattr(m, "inplace")] == [
        m.inplace for m in other.modules() if hasattr(m, "inplace")
    ]


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_1", "cifar_mobilenetv2", "resnet18"])
def test_the_last_n_are_given_and_no_head_is_computed(name: str) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("computed in vain")

    network = build(name, train=False)
    every = seen(network, maps=4, preactivations=4)
    with patch.object(type(network.model), "forward_head", never):
        for maps, preactivations in ((0, 2), (1, 3), (3, 1)):
            some = seen(network, maps=maps, preactivations=preactivations)
            assert_equal(some, Features(every.maps[4 - maps :], every.preactivations[4 - preactivations :]))
    if name == "cifar_mobilenetv2":
        with patch.object(type(network.model), "widen", never):
            seen(network, maps=1, preactivations=1)


@pytest.mark.parametrize("activated", [False, True])
def test_maps_and_preactivations_of_wide_resnets_lie_before_and_after_the_next_batch_norm(activated: bool) -> None:
    model = (network := build("cifar_wrn_16_1", train=False, activated=activated)).model
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.running_mean.normal_()
            norm.weight.uniform_(0.5, 2)
        given = seen(network, maps=4, preactivations=4, embedding=True, logits=True)
        x0 = model.conv1(network.normalize(images()))
        x1 = model.block1(x0)
        x2 = model.block2(x1)
        x3 = model.block3(x2)
        expected = [model.block1.layer[0].bn1(x0), model.block2.layer[0].bn1(x1), model.block3.layer[0].bn1(x2)]
        expected.append(model.bn1(x3))
        pooled = F.relu(expected[-1])
        last = pooled if activated else x3
    for found in (given, seen(network, maps=4), seen(network, maps=4, logits=True)):
        assert all(torch.equal(a, b) for a, b in zip(found.maps, (x0, x1, x2, last), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(given.preactivations, expected, strict=True))
    assert torch.equal(given.embedding, pooled.mean((2, 3)))
    assert torch.equal(model.widen(last), pooled)
    assert torch.equal(given.logits, network(images()))
    assert [info["module"] for info in model.feature_info][-1] == ("bn1" if activated else "block3")


@pytest.mark.parametrize("name", VITS)
def test_attention_is_the_last_blocks_probabilities(name: str) -> None:
    kwargs, tokens = VITS[name]
    network = build(name, **kwargs, attn_drop_rate=0.5)
    block = network.model.blocks[-1]
    attention_layer = block if hasattr(block, "attn_drop") else block.attn
    fused = getattr(attention_layer, "fused_attn", None)
    for train in (True, False):
        given = seen(network.train(train), attention=True, tokens=True, embedding=True, logits=True, maps=1)
        shape = (3, attention_layer.num_heads, tokens, tokens)
        assert given.attention.shape == shape
        torch.testing.assert_close(given.attention.sum(-1), torch.ones(shape[:3]))  # before dropout
        assert getattr(attention_layer, "fused_attn", None) == fused
        assert not any(module._forward_pre_hooks for module in network.modules())
    alone = seen(network, attention=True)
    assert torch.equal(alone.attention, given.attention)
    assert alone._replace(attention=None) == Features()
    plain = seen(network, tokens=True, embedding=True, logits=True)
    torch.testing.assert_close(plain.logits, given.logits, atol=1e-4, rtol=1e-4)
    given.attention.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    assert attention_layer is block or attention_layer.qkv.weight.grad.any()


def test_attention_agrees_with_its_formula() -> None:
    network = build("vit_tiny_patch16_224", train=False, **{**TINY_VIT, "depth": 1})
    model = network.model
    with torch.no_grad():
        x = model.norm_pre(model._pos_embed(model.patch_embed(network.normalize(images()))))
        qkv = model.blocks[0].attn.qkv(model.blocks[0].norm1(x)).view(3, 17, 3, 3, 64)
        q, k = qkv[:, :, 0].transpose(1, 2), qkv[:, :, 1].transpose(1, 2)
        expected = (q @ k.transpose(2, 3) / 8).softmax(-1)
        torch.testing.assert_close(seen(network, attention=True).attention, expected)


@pytest.mark.parametrize(
    ("name", "reads", "words"),
    [
        ("vit_tiny_patch16_224", {"preactivations": 1}, ["pre-activation", "cifar_resnet20", "resnet18"]),
        ("regnetx_002", {"preactivations": 1}, ["pre-activation"]),
        ("cifar_resnet8", {"preactivations": 5}, ["preactivations is 5", "4 stages"]),
        ("resnet18", {"preactivations": 6}, ["preactivations is 6", "5 stages"]),
        ("resnet18", {"attention": True}, ["attention", "vit_*"]),
        ("cifar_resnet8", {"attention": True}, ["attention"]),
        ("swin_tiny_patch4_window7_224", {"attention": True}, ["attention"]),
        ("xcit_nano_12_p8_224", {"attention": True}, ["attention"]),
        ("vit_dpwee_patch16_reg1_gap_256", {"attention": True}, ["attention"]),  # a difference of two softmaxes
    ],
)
def test_what_a_network_does_not_have_is_one_line(name: str, reads: dict, words: list[str]) -> None:
    small = {"vit_tiny_patch16_224": TINY_VIT, "vit_dpwee_patch16_reg1_gap_256": TINY_VIT}
    with pytest.raises(ConfigError) as refused:
        Network(name, num_classes=2, model_kwargs=small.get(name)).features(images(1), **reads)
    assert "\n" not in str(refused.value)
    assert all(word in str(refused.value) for word in [name, *words])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dtype_of_its_own(dtype: str) -> None:
    reads = {"cifar_resnet8": {"preactivations": 2}, "vit_tiny_patch16_224": {"attention": True}}
    for name, wanted in reads.items():
        network = Network(name, dtype=dtype, model_kwargs=TINY_VIT if "vit" in name else {}).freeze()
        given = network.features(images(), **wanted)
        for part in [*given.preactivations, *([given.attention] if "attention" in wanted else [])]:
            assert part.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("cifar_wrn_16_1", Reads(maps=2, preactivations=2, logits=True)),
        ("resnet18", Reads(maps=2, preactivations=2, logits=True)),
        ("vit_tiny_patch16_224", Reads(attention=True, tokens=True)),
    ],
)
def test_compiled(name: str, reads: Reads) -> None:
    small = {"vit_tiny_patch16_224": TINY_VIT, "resnet18": KEPT, "cifar_wrn_16_1": {"depth": 10}}
    network = build(name, train=False, **small[name])
    compiled = torch.compile(network.features, backend="eager", dynamic=False)
    for _ in range(2):
        given, expected = compiled(images(), **reads._asdict()), network.features(images(), **reads._asdict())
        for one, other in zip(given, expected, strict=True):
            torch.testing.assert_close(one, other)
    assert not any(module._forward_pre_hooks for module in network.modules())


# One small network of each of timm's families that offer maps; those that hand out N,H,W,C inside are in the default
# run. Without SAM, whose neck changes the channels that feature_info names.
FAMILIES = """
convnext_atto crossvit_tiny_240 hiera_tiny_224 mambaout_femto poolformer_s12 swin_s3_tiny_224 test_byobnet test_nfnet
test_vit
""".split()
OTHER_FAMILIES = """
beit_base_patch16_224 cait_xxs24_224 coat_lite_mini convit_tiny convmixer_768_32 cpubone_nano cspresnext50 cspnext_l
davit_tiny densenet121 dla60_res2next dpn68 edgenext_xx_small efficientformer_l1 efficientformerv2_s0
test_efficientnet efficientvim_m1 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8
focalnet_tiny_lrf gcvit_xxtiny ghostnet_050 hgnetv2_b0 sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto
inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0 maxvit_pico_rw_256 caformer_s18
gmlp_ti16_224 lcnet_050 mobilenetv4_conv_small_050 mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge nest_tiny
nextvit_small pit_ti_224 pnasnet5large pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 test_resnet
resnetv2_18 rexnet_100 selecsls42 legacy_seresnext26_32x4d shvit_s1 starnet_s050 swiftformer_xs
swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m twins_svt_small vgg11
visformer_tiny test_vit_relpos volo_d1_224 vovnet39a legacy_xception xception41 xcit_nano_12_p8_224
""".split()


@torch.no_grad()
@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHER_FAMILIES)])
def test_maps_of_every_family_have_their_channels_first(name: str) -> None:
    with torch.device("meta"):
        network = Network(name, num_classes=2).eval()
        side = network.model.pretrained_cfg["input_size"][-1]
        given = network.features(torch.zeros(2, 3, side, side), maps=2, logits=True)
        again = network.features(torch.zeros(2, 3, side, side), maps=2)
    channels = [info["num_chs"] for info in network.model.feature_info][-2:]
    for maps in (given.maps, again.maps):
        assert [x.ndim for x in maps] == [4, 4]
        assert [x.shape[1] for x in maps] == channels
        assert all(x.shape[0] == 2 for x in maps)


def test_families_are_known() -> None:
    assert not [name for name in [*FAMILIES, *OTHER_FAMILIES] if not timm.is_model(name)]


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_1", "resnet18", "vit_tiny_patch16_224", "swin_tiny"])
def test_the_map_of_a_stage_is_computed_alone(name: str) -> None:
    """The layers after the stage do not run."""
    kwargs = {"vit_tiny_patch16_224": {**TINY_VIT, "depth": 4, "embed_dim": 24}, "resnet18": KEPT}.get(name, {})
    if name == "swin_tiny":
        name, kwargs = "swin_tiny_patch4_window7_224", {"img_size": 64, "embed_dim": 12, "window_size": 2}
    network = build(name, train=False, **kwargs)
    given = images(2, network.size or 32)
    with torch.no_grad():
        maps = network.features(given, maps=3).maps
        with patch.object(network.model, "forward_head", side_effect=AssertionError):
            for number in (3, 2, 1):
                assert torch.equal(network.stage_map(given, number), maps[-number])


def test_a_network_without_maps_has_no_map_of_a_stage() -> None:
    network = build("cifar_resnet8")
    network.model.__class__ = type("Bare", (torch.nn.Module,), {})
    with pytest.raises(ConfigError, match="cifar_resnet8: timm provides no feature maps of this model"):
        network.stage_map(images(), 1)
