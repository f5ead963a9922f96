"""Facts of weight files: each is checked before it is used, and an error is one line with the name of the file."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kd_lightning.errors import ConfigError
from kd_lightning.models import Network
from kd_lightning.models.file_facts import checked

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def network() -> Network:
    return Network("cifar_resnet8", num_classes=3)


def write(folder: Path, network: Network, kind: str, facts: Any) -> str:
    path = folder / f"file.{kind}"
    if kind == "safetensors":
        save_file(network.model.state_dict(), path, metadata={"network": json.dumps(facts)})
    else:
        torch.save({"state_dict": network.model.state_dict(), "network": facts}, path)
    return str(path)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
@pytest.mark.parametrize(
    ("fact", "value"),
    [
        *(("mean", value) for value in ([0.5], [0.5] * 4, [], "0.5", 0.5, [True] * 3, [NAN, 0, 0], [10**400, 0, 0])),
        *(("mean", value) for value in ([[0.5]] * 3, {"r": 1}, ["0.5"] * 3, [None] * 3)),
        *(("std", value) for value in ([0, 0, 0], [1, 1, 0.0], [-1, 1, 1], [INF] * 3, [1e-300] * 3, [False] * 3)),
        *(("size", value) for value in ("32", -5, 0, 32.0, True, 10**30, [32, 32], NAN)),
        *(("num_classes", value) for value in ("x", -1, True, 3.0, [3], 10**30)),
        *(("name", value) for value in ({"a": 1}, "", 5, "a\x1b[2J", "a\nb", "a" * 10**5, ["cifar_resnet8"])),
        *(("class_names", value) for value in (5, "abc", [1, 2, 3], [["a"], "b", "c"], [None] * 3, {"0": "a"}, True)),
    ],
)
def test_a_wrong_fact_is_one_line_with_the_file(network: Network, tmp_path: Path, kind: str, fact: str, value) -> None:
    path = write(tmp_path, network, kind, {**network.facts(), fact: value})
    with pytest.raises(ConfigError) as refused:
        Network("cifar_resnet8", checkpoint=path)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 300 + len(path)
    assert message.startswith(f"cifar_resnet8: checkpoint: {path}: the file has {fact} ")
    assert f", but {fact} must be " in message


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"num_classes": 4}, "has num_classes 4, but its classifier has 3 outputs"),
        ({"num_classes": 0}, "has num_classes 0, but its classifier has 3 outputs"),
        ({"class_names": ["a", "b"]}, "names 2 classes, but its classifier has 3 outputs"),
    ],
)
def test_classes_that_do_not_fit_the_classifier(network: Network, tmp_path: Path, facts: dict, words: str) -> None:
    path = write(tmp_path, network, "safetensors", {**network.facts(), **facts})
    for num_classes in (None, 3, 5):
        with pytest.raises(ConfigError, match=rf"file\.safetensors: the file {words}$"):
            Network("cifar_resnet8", checkpoint=path, num_classes=num_classes)


@pytest.mark.parametrize("text", ["{", "", "[1, 2]", '"resnet18"', "5", "null", "[" * 10**5, '"{\\"size\\": 32}"'])
def test_metadata_that_are_no_table(network: Network, tmp_path: Path, text: str) -> None:
    save_file(network.model.state_dict(), tmp_path / "file.safetensors", metadata={"network": text})
    with pytest.raises(ConfigError, match=r"file\.safetensors") as refused:
        Network("cifar_resnet8", checkpoint=str(tmp_path / "file.safetensors"))
    assert "\n" not in str(refused.value)


def test_a_tensor_is_no_list_of_numbers(network: Network, tmp_path: Path) -> None:
    path = write(tmp_path, network, "pth", {**network.facts(), "mean": torch.zeros(3)})
    with pytest.raises(ConfigError, match=r"file\.pth: the file has mean tensor\(.*, but mean must be three numbers"):
        Network("cifar_resnet8", checkpoint=path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"std": (0.0, 1.0, 1.0)}, r"std is \(0.0, 1.0, 1.0\); it must be three numbers from 1e-06 to 1e\+06"),
        ({"std": (-1.0, 1.0, 1.0)}, "std is"),
        ({"std": (math.nan, 1.0, 1.0)}, r"std is \(nan"),
        ({"std": (1.0, 1.0)}, "std is"),
        ({"std": ()}, "std is"),
        ({"std": "0.5"}, "std is '0.5'"),
        ({"std": (True, True, True)}, "std is"),
        ({"mean": ("a", "b", "c")}, "mean is"),
        ({"mean": ()}, "mean is"),
        ({"mean": (math.inf, 0.0, 0.0)}, "mean is"),
        ({"mean": 0.5}, "mean is 0.5; it must be three numbers from"),
        ({"num_classes": -3}, "num_classes is -3; it must be a whole number, 0 or more"),
        ({"size": 0}, "size is 0; it must be a whole number from 1 to"),
    ],
)
def test_arguments_follow_the_rules_for_files(given: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^cifar_resnet8: {words}"):
        Network("cifar_resnet8", **given)


@pytest.mark.parametrize("name", ["layer1.0.bn1.running_var", "layer1.0.conv1.weight"])
def test_values_that_are_too_large_for_a_dtype(network: Network, tmp_path: Path, name: str) -> None:
    network = copy.deepcopy(network)
    network.model.state_dict()[name].flatten()[0] = 1e6
    path = write(tmp_path, network, "safetensors", network.facts())
    with pytest.raises(
        ConfigError, match=rf"dtype is float16, but some values are too large for it \({name}\); choose"
    ):
        Network("cifar_resnet8", checkpoint=path, dtype="float16")
    Network("cifar_resnet8", checkpoint=path, dtype="bfloat16")


def test_numbers_that_python_cannot_print_and_deep_lists() -> None:
    nested: list = []
    for _ in range(10**4):
        nested = [nested]
    for value in (10**5000, nested):
        with pytest.raises(ConfigError, match=r"^file: the file has size an unreadable (int|list), but size must be"):
            checked({"size": value}, "file")


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_right_facts_are_used(network: Network, tmp_path: Path, kind: str) -> None:
    unknown = {"name": None, "num_classes": None, "mean": None, "std": None, "size": None, "class_names": None}
    for facts in ({}, unknown, {"class_names": []}, {"other": {"size": -1}}):
        loaded = Network("cifar_resnet8", checkpoint=write(tmp_path, network, kind, facts))
        assert (loaded.facts(), loaded.class_names or None) == (network.facts(), None)
    facts = {"mean": [0, 0, 0], "std": [1, 1, 1], "size": 24, "class_names": ["crane", "crane", "owl"]}
    loaded = Network("cifar_resnet8", checkpoint=write(tmp_path, network, kind, facts))
    assert (loaded.mean.sum(), loaded.std.sum(), loaded.size) == (0, 3, 24)
    assert loaded.class_names == ["crane", "crane", "owl"]  # two classes of ImageNet are called crane


def test_other_programs_may_write_anything_under_our_key(network: Network, tmp_path: Path) -> None:
    for entry in ("resnet18", 5, [1], None):
        assert Network("cifar_resnet8", checkpoint=write(tmp_path, network, "pth", entry)).num_classes == 3
    torch.save({"network": network.model.state_dict()}, tmp_path / "file.pth")  # the weights themselves
    assert Network("cifar_resnet8", checkpoint=str(tmp_path / "file.pth")).num_classes == 3


def test_every_fact_that_is_written_is_read(network: Network) -> None:
    facts = {**network.facts(), "class_names": ["a", "b", "c"]}
    assert checked(facts, "file") == facts
