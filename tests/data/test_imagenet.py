"""ImageNet-1k's official layout, made small here: one tiny image a class, its color telling the class."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from timm.data import ImageNetInfo

from kd_lightning.data import ImageNet
from kd_lightning.data.encoded import EncodedImages
from kd_lightning.errors import ConfigError

WNIDS = ImageNetInfo("imagenet-1k").label_names()
ORDER = np.random.default_rng(0).permutation(1000)
"""The class of each flat validation image."""
IDS = np.random.default_rng(1).permutation(1000) + 1
"""The devkit's id of each class."""


def image(folder: Path, name: str, label: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    color = (label // 100 * 25, label // 10 % 10 * 25, label % 10 * 25)
    Image.new("RGB", (8, 8), color).save(folder / name, quality=95)


def labels_of(images: torch.Tensor) -> torch.Tensor:
    """What the colors say."""
    digits = (images.float().mean((2, 3)) / 25).round().long()
    return digits @ torch.tensor([100, 10, 1])


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders to put a tree together from: train, sorted, flat, devkit."""
    root = tmp_path_factory.mktemp("parts")
    for label, wnid in enumerate(WNIDS):
        image(root / "train" / wnid, f"{wnid}_1.JPEG", label)
    for place, label in enumerate(ORDER):
        image(root / "flat", f"ILSVRC2012_val_{place + 1:08}.JPEG", int(label))
    (root / "sorted").symlink_to(root / "train")
    (root / "devkit" / "data").mkdir(parents=True)
    truth = "".join(f"{IDS[label]}\n" for label in ORDER)
    (root / "devkit" / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    synsets = np.zeros(1005, [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    named = [(int(number), wnid) for number, wnid in zip(IDS, WNIDS, strict=True)]
    for row, (number, wnid) in enumerate(sorted(named) + [(1001 + n, f"n9999999{n}") for n in range(5)]):
        synsets[row] = (number, wnid, "some words")  # after the classes, their ancestors, as in the official file
    savemat(root / "devkit" / "data" / "meta.mat", {"synsets": synsets[:, None]})
    return root


Tree = Callable[..., ImageNet]


@pytest.fixture
def tree(parts: Path, tmp_path: Path) -> Tree:
    def build(**places: str) -> ImageNet:
        for place, part in places.items():
            (tmp_path / place).symlink_to(parts / part)
        return ImageNet(path=str(tmp_path), size=8, crop_ratio=1.0)

    return build


def refusal(data: ImageNet, split: str = "test") -> str:
    with pytest.raises(ConfigError) as refused:
        data.load(split)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("data.path: ")
    return str(refused.value)


def check(images: EncodedImages, labels: list[int]) -> None:
    assert images.labels.tolist() == labels
    assert images.indices.tolist() == [*range(1000)]
    rows = torch.arange(0, 1000, 9)
    batch = images.take(rows)
    assert batch.images.shape == (112, 3, 8, 8)
    assert torch.equal(labels_of(batch.images), batch.labels)


def test_classes_are_timms(tree: Tree) -> None:
    data = tree()
    assert data.class_ids == WNIDS == sorted(WNIDS)
    assert (len(data.class_names), data.num_classes) == (1000, 1000)
    assert [data.class_names[label] for label in (0, 1, 281, 999)] == ["tench", "goldfish", "tabby", "toilet tissue"]
    assert data.class_ids[281] == "n02123045"


def test_sorted_folders(tree: Tree) -> None:
    data = tree(train="train", val="sorted")
    for split in ("train", "test"):
        check(data.load(split), [*range(1000)])
    assert data.load("train").paths()[2].endswith(f"train/{WNIDS[2]}/{WNIDS[2]}_1.JPEG")
    assert data.load("val") is None


def test_flat_validation_images_have_the_devkits_labels(tree: Tree) -> None:
    check(tree(val="flat", ILSVRC2012_devkit_t12="devkit").load("test"), ORDER.tolist())


def test_missing_folders(tree: Tree, tmp_path: Path) -> None:
    assert "it has no train/" in refusal(tree(), "train")
    assert "it has no val/" in refusal(tree())
    (tmp_path / "val").mkdir()
    assert "0 class folders" in refusal(tree())
    with pytest.raises(ConfigError, match=r"data.path: .*nowhere does not exist"):
        ImageNet(path=str(tmp_path / "nowhere")).load("train")


def test_missing_and_unknown_classes(tmp_path: Path) -> None:
    for label in (*range(5), *range(6, 1000)):
        image(tmp_path / "train" / WNIDS[label], "1.JPEG", label)
    (tmp_path / "train" / WNIDS[5]).mkdir()
    data = ImageNet(path=str(tmp_path))
    assert f"has 999 class folders with images, not the 1000 of ImageNet-1k; {WNIDS[5]} is missing" in refusal(
        data, "train"
    )
    image(tmp_path / "train" / WNIDS[5], "1.JPEG", 5)
    image(tmp_path / "train" / "cat", "1.JPEG", 5)
    assert "has 1001 class folders with images, not the 1000 of ImageNet-1k; cat is unknown" in refusal(data, "train")


def test_a_devkit_that_is_missing_or_does_not_fit(tree: Tree, parts: Path, tmp_path: Path) -> None:
    data = tree(val="flat")
    assert "labels are missing, because " in refusal(data)
    own = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    own.mkdir(parents=True)
    truth, lines = own / "ILSVRC2012_validation_ground_truth.txt", [str(IDS[label]) for label in ORDER]
    truth.write_text("\n".join(lines))
    assert "meta.mat does not exist; unpack ILSVRC2012_devkit_t12.tar.gz" in refusal(data)
    (own / "meta.mat").symlink_to(parts / "devkit" / "data" / "meta.mat")
    truth.write_text("\n".join(lines[:-1]))
    assert "has 1,000 images, but data/ILSVRC2012_validation_ground_truth.txt has 999 labels" in refusal(data)
    truth.write_text("\n".join(["1003", *lines[1:]]))
    assert "names the unknown class n99999992" in refusal(data)
    truth.write_text("\n".join(["2000", *lines[1:]]))
    assert "names the unknown class 2000" in refusal(data)
