"""Local weight files: timm's own conversions, classifiers with other classes, and numbers that cannot be weights."""

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kd_lightning.errors import ConfigError
from kd_lightning.models import Network, checkpoints

TWO_HEADS = {
    "deit_tiny_distilled_patch16_224": {"img_size": 32, "depth": 1},
    "levit_128s": {"img_size": 64, "depth": (1, 1, 1)},
    "repvit_m1": {"depth": (1, 1, 1, 1)},  # timm's reset_classifier drops its second classifier
}
ALL_TWO_HEADS = {
    "crossvit_tiny_240": {},
    "efficientformerv2_s0": {"img_size": 64},
    "efficientvim_m1": {},  # four classifiers
    "volo_d1_224": {"img_size": 64},
    "efficientformer_l1": {},
    "iformer_l2_distilled": {},
    "pit_ti_distilled_224": {"img_size": 64},
    "swiftformer_xs": {},
    "efficientvim_m1_dist": {},
}
DINO = {"depth": 1, "embed_dim": 32, "num_heads": 2}
SWIN = {"depths": (1, 2), "embed_dim": 16, "num_heads": (1, 2), "img_size": 56}


def images(count: int = 2, side: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def same(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def loaded_by_timm(name: str, path: Path, classes: int, **kwargs: object) -> nn.Module:
    """The model that timm gives with `pretrained`, if its pretrained weights are this file."""
    weights = {"file": str(path), "num_classes": classes}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=weights, num_classes=classes, **kwargs)


@pytest.mark.parametrize("name", [*TWO_HEADS, *(pytest.param(n, marks=pytest.mark.slow) for n in ALL_TWO_HEADS)])
def test_networks_with_several_classifiers_load_their_own_files(name: str, tmp_path: Path) -> None:
    path, kwargs = tmp_path / "student.safetensors", {**TWO_HEADS, **ALL_TWO_HEADS}[name]
    began = Network(name, num_classes=4, model_kwargs=kwargs)
    checkpoints.write(path, began.model.state_dict(), began.facts())
    other_classes = Network(name, checkpoint=str(path), num_classes=3, model_kwargs=kwargs).eval()
    checkpoints.write(path, other_classes.model.state_dict(), other_classes.facts())
    teacher = Network(name, checkpoint=str(path), model_kwargs=kwargs).freeze()
    assert (teacher.num_classes, teacher.fresh_classifier) == (3, False)
    assert same(teacher.model, other_classes.model)
    torch.testing.assert_close(teacher(images()), other_classes(images()))
    assert teacher(images()).shape == (2, 3)


def test_vits_are_resampled_to_another_size_as_timm_does(tmp_path: Path) -> None:
    name = "vit_small_patch14_dinov2"
    for classes in (0, 5):
        old = timm.create_model(name, img_size=56, num_classes=classes, **DINO)
        torch.save(old.state_dict(), tmp_path / "file.pth")
        checkpoints.write(tmp_path / "file.safetensors", old.state_dict(), {"name": name, "size": 56})
        kwargs = {**DINO, "img_size": 28}
        with pytest.warns(
            UserWarning,
            match=r"1 entries were changed .* such as pos_embed from \(1, 17, 32\) to \(1, 5, 32\)",
        ):
            network = Network(name, checkpoint=str(tmp_path / "file.safetensors"), model_kwargs=kwargs)
        expected = loaded_by_timm(name, tmp_path / "file.pth", classes, **kwargs)
        assert same(network.model, expected)
        assert (network.num_classes, network.size) == (classes, 28)  # not the 56 of the file


def test_a_resampled_network_without_an_own_img_size_has_its_default_size(tmp_path: Path) -> None:
    trained = Network("maxvit_pico_rw_256", num_classes=3, model_kwargs={"img_size": 64})
    checkpoints.write(tmp_path / "file.safetensors", trained.model.state_dict(), trained.facts())
    with pytest.warns(UserWarning, match="entries were changed to the shapes of the model"):
        network = Network("maxvit_pico_rw_256", checkpoint=str(tmp_path / "file.safetensors")).eval()
    assert (trained.size, network.size) == (64, 256)
    assert network(images()).shape == (2, 3)


def test_the_names_of_dinov2s_authors(tmp_path: Path) -> None:
    name, kwargs = "vit_small_patch14_reg4_dinov2", {**DINO, "img_size": 28}
    expected = timm.create_model(name, **kwargs)
    state = {key.replace("reg_token", "register_tokens"): value for key, value in expected.state_dict().items()}
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 32), state["pos_embed"]], 1)  # the authors' has the class token
    state["mask_token"] = torch.zeros(1, 32)
    torch.save(state, tmp_path / "file.pth")
    loaded = Network(name, checkpoint=str(tmp_path / "file.pth"), model_kwargs=kwargs).model
    assert same(loaded, loaded_by_timm(name, tmp_path / "file.pth", 0, **kwargs))


def test_the_names_of_convnexts_authors_and_a_prefix_of_a_wrapper(tmp_path: Path) -> None:
    kwargs = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
    expected = timm.create_model("convnext_atto", num_classes=7, **kwargs)
    state = {}
    for key, value in expected.state_dict().items():
        key = key.replace("head.norm.", "norm.").replace("head.fc.", "head.").replace("conv_dw", "dwconv")
        key = re.sub(
            r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", re.sub("^stem", "downsample_layers.0", key)
        )
        key = re.sub(r"stages\.(\d)\.blocks\.", r"stages.\1.", key).replace("mlp.fc", "pwconv")
        state[key] = value
    torch.save({"model": state}, tmp_path / "file.pth")
    network = Network("convnext_atto", checkpoint=str(tmp_path / "file.pth"), model_kwargs=kwargs)
    assert (network.num_classes, same(network.model, expected)) == (7, True)
    other = Network("convnext_atto", checkpoint=str(tmp_path / "file.pth"), num_classes=2, model_kwargs=kwargs)
    assert (other.num_classes, other.fresh_classifier) == (2, True)
    assert torch.equal(other.model.stem[0].weight, expected.stem[0].weight)


def test_swins_position_index_and_masks_of_old_files(tmp_path: Path) -> None:
    expected = timm.create_model("swin_tiny_patch4_window7_224", num_classes=4, **SWIN)
    state = dict(expected.state_dict())
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    state["layers.1.blocks.1.attn_mask"] = torch.full((4, 49, 49), -torch.inf)
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "file.pth")
    network = Network("swin_tiny_patch4_window7_224", checkpoint=str(tmp_path / "file.pth"), model_kwargs=SWIN)
    assert (network.num_classes, same(network.model, expected)) == (4, True)


def test_another_architecture_is_still_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", depth=1).state_dict(), tmp_path / "file.pth")
    for name, kwargs in (("test_vit", {"depth": 2}), ("cifar_resnet8", {}), ("swin_tiny_patch4_window7_224", SWIN)):
        with pytest.raises(ConfigError, match=r"file\.pth does not fit this model: \d+ missing: ") as refused:
            Network(name, checkpoint=str(tmp_path / "file.pth"), model_kwargs=kwargs)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        ("conv1.weight", lambda x: x.long(), "int64 instead of floating-point numbers"),
        ("conv1.weight", lambda x: x > 0, "bool instead of floating-point numbers"),
        ("conv1.weight", lambda x: x.to(torch.complex64), "complex64 instead of floating-point numbers"),
        ("conv1.weight", lambda x: x.fill_(torch.nan), "numbers that are not finite"),
        ("fc.bias", lambda x: x.fill_(-torch.inf), "numbers that are not finite"),
        ("fc.bias", lambda x: x.fill_(1e38), r"numbers above 1e\+18"),
        ("fc.bias", lambda x: x.double() - 1e300, r"numbers above 1e\+18"),
        ("bn1.running_mean", lambda x: x.fill_(torch.nan), "numbers that are not finite"),
        ("bn1.running_var", lambda x: -x, "negative variances"),
        ("bn1.num_batches_tracked", lambda x: x.float(), "float32 instead of whole numbers"),
        ("conv1.weight", lambda x: x.to_sparse(), "tensors without ordinary values"),
        ("conv1.weight", lambda x: x.to("meta"), "tensors without ordinary values"),
    ],
)
def test_numbers_that_cannot_be_weights(key: str, change, words: str, tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in Network("cifar_resnet8").model.state_dict().items()}
    state[key] = change(state[key])
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(ConfigError, match=rf"file\.pth contains {words}, in 1 of 44 entries: {key}$"):
        Network("cifar_resnet8", checkpoint=str(tmp_path / "file.pth"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_formats_are_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    state = Network("cifar_resnet8").model.state_dict()
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    save_file(state, tmp_path / "file.safetensors")
    loaded = Network("cifar_resnet8", checkpoint=str(tmp_path / "file.safetensors")).model.state_dict()
    assert all(torch.equal(loaded[key], state[key].to(loaded[key].dtype)) for key in state)
    assert loaded["fc.weight"].dtype == torch.float32


def test_weights_that_the_dtype_of_a_teacher_cannot_hold(tmp_path: Path) -> None:
    state = Network("cifar_resnet8").model.state_dict()
    state["fc.bias"].fill_(1e6)
    save_file(state, tmp_path / "file.safetensors")
    Network("cifar_resnet8", checkpoint=str(tmp_path / "file.safetensors"), dtype="bfloat16")
    with pytest.raises(ConfigError, match="dtype is float16, but some values are too large"):
        Network("cifar_resnet8", checkpoint=str(tmp_path / "file.safetensors"), dtype="float16")
