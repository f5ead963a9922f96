"""Tiny-ImageNet's official layout, made small here, and the real subset where it is at hand."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kd_lightning.data import TinyImageNet, tiny_imagenet
from kd_lightning.errors import ConfigError

WNIDS = [f"n{number:08}" for number in range(200)]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official layout with 3 training images and 1 validation image a class; the pixels tell the class."""
    root = tmp_path_factory.mktemp("tiny") / "tiny-imagenet-200"
    for number, wnid in enumerate(WNIDS):
        (root / "train" / wnid / "images").mkdir(parents=True)
        for place in range(3):
            Image.new("RGB", (64, 64), (number, 0, 0)).save(root / "train" / wnid / "images" / f"{wnid}_{place}.JPEG")
    (root / "val" / "images").mkdir(parents=True)
    lines = []
    for place, number in enumerate(np.random.default_rng(0).permutation(200)):
        Image.new("L", (64, 64), int(number)).save(root / "val" / "images" / f"val_{place}.JPEG")
        lines.append(f"val_{place}.JPEG\t{WNIDS[number]}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    (root / "words.txt").write_text("".join(f"{wnid}\tword {wnid}, another\n" for wnid in [*WNIDS, "n99999999"]))
    return root


def ready(path: Path) -> TinyImageNet:
    data = TinyImageNet(path=str(path), batch_size=8, val_split=200)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


def test_the_official_folder_is_read(official: Path) -> None:
    data = ready(official)
    assert {split: len(images) for split, images in data.datasets.items()} == {"train": 400, "val": 200, "test": 200}
    assert data.class_names[7] == "word n00000007"
    for split in ("train", "test"):
        images, labels = (
            data.datasets[split].take(torch.arange(len(data.datasets[split]))).images,
            data.datasets[split].labels,
        )
        assert images.shape[1:] == (3, 64, 64)
        assert (images[:, 0, 32, 32].long() - labels).abs().max() <= 3  # JPEG
        assert torch.equal(labels, labels.sort().values)


def test_an_archive_and_a_downloaded_zip(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archive = tmp_path / "elsewhere" / "tiny-imagenet-200.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(official.rglob("*.*")):
            file.write(path, f"tiny-imagenet-200/{path.relative_to(official)}")
    assert len(ready(archive).datasets["test"]) == 200

    def fetch(address: str, target: Path, md5: str, *, field: str) -> None:
        assert (address, md5) == (tiny_imagenet._ADDRESS, tiny_imagenet._CHECKSUM)
        target.parent.mkdir()
        shutil.copy(archive, target)

    monkeypatch.setattr(tiny_imagenet, "fetch", fetch)
    assert len(ready(tmp_path / "data" / "tiny-imagenet-200").datasets["test"]) == 200


def test_refusals(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ConfigError, match=r"data.path: .*200.zip is missing and http.* \(no route to host\)"):
        ready(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"NO_SUCH.* environment variable that is not set"):
        ready(Path("${NO_SUCH}/tiny"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"is not Tiny-ImageNet's folder: it has no wnids.txt"):
        ready(tmp_path / "empty")
    shutil.copytree(official, tmp_path / "copy")
    (tmp_path / "copy" / "wnids.txt").write_text("n00000001")
    with pytest.raises(ConfigError, match=r"wnids.txt lists 1 classes, not 200"):
        ready(tmp_path / "copy")
    shutil.copy(official / "wnids.txt", tmp_path / "copy" / "wnids.txt")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    annotations = tmp_path / "copy" / "val" / "val_annotations.txt"
    for text in ("a.JPEG\tn7\t0\n", "a.JPEG\n", "../a.JPEG\tn01443537\t0\n"):
        annotations.write_text(text)
        with pytest.raises(ConfigError, match=rf"{annotations}, line 1: .* is not the name .*unpack the official"):
            ready(tmp_path / "copy")
    annotations.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=rf"data.path: {annotations} cannot be read as text \(.*\); unpack"):
        ready(tmp_path / "copy")


def test_the_real_subset(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = TinyImageNet(path=str(shared / "data" / "tiny-imagenet-200-subset.tar"))
    data.setup("test")
    assert len(data.datasets["test"]) == 5000
    assert torch.bincount(data.datasets["test"].labels).tolist() == [25] * 200
    assert "Egyptian cat" in data.class_names
