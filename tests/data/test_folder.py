"""ImageFolder and archives of folders."""

import errno
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kd_lightning.data import ImageFolder
from kd_lightning.data.archives import unpack_to_cache
from kd_lightning.errors import ConfigError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kd_lightning"


def fill(folder: Path, *, classes: tuple[str, ...] = ("cat", "dog"), count: int = 5, side: int = 6) -> Path:
    """Class folders; an image's first pixel is (class, number, 0)."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.zeros((side, side, 3), np.uint8)
            pixels[0, 0] = label, number, 0
            pixels[-1, -1] = 255  # images without a bright pixel would be reported
            Image.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


def of(path: Path, **kwargs: object) -> ImageFolder:
    data = ImageFolder(path=str(path), **{"batch_size": 2, "val_split": 0, **kwargs})
    data.setup("fit")
    data.setup("test")
    return data


@pytest.mark.parametrize("other", ["test", "val"])
def test_train_beside_test_or_val(tmp_path: Path, other: str) -> None:
    fill(tmp_path / "train", count=6)
    fill(tmp_path / other, count=3)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    data = of(tmp_path)
    assert (data.num_classes, data.class_names, data.name) == (2, ["cat", "dog"], tmp_path.name)
    assert (len(data.datasets["train"]), len(data.datasets["test"])) == (12, 6)
    images = data.datasets["train"].take(torch.arange(12)).images
    assert torch.equal(images[:, 0, 0, 0].long(), data.datasets["train"].labels)
    assert images[:, 1, 0, 0].tolist() == [*range(6)] * 2
    assert data.datasets["test"].paths()[0] == str(tmp_path / other / "cat" / "00.png")


def test_train_val_and_test(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        fill(tmp_path / split, count=count)
    data = of(tmp_path, val_split=0.5)
    assert data.has_validation
    assert {split: len(images) for split, images in data.datasets.items()} == {"train": 12, "val": 4, "test": 6}


def test_class_folders_alone_are_split(tmp_path: Path) -> None:
    data = of(fill(tmp_path / "pets", count=10), test_split=0.3)
    train, test = data.datasets["train"], data.datasets["test"]
    assert (len(train), len(test)) == (14, 6)
    assert torch.bincount(test.labels).tolist() == [3, 3]
    assert sorted([*train.indices.tolist(), *test.indices.tolist()]) == [*range(20)]
    assert torch.equal(test.indices, of(tmp_path / "pets", test_split=6, seed=9).datasets["test"].indices)


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "test")
    odd = tmp_path / "train" / "dog" / "99.png"
    Image.fromarray(np.full((8, 20), 77, np.uint8)).save(odd)
    with pytest.raises(ConfigError, match=r"data.size: .*99.png has 20x8 pixels, but the first has 6x6"):
        of(tmp_path)
    data = of(tmp_path, size=4)
    images = data.datasets["train"].take(torch.arange(11)).images
    assert images.shape == (11, 3, 4, 4)
    assert (images[-1] == 77).all()  # grey, as RGB, the middle of the long side


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "zip"])
@pytest.mark.parametrize("within", ["pets/", ""])
def test_archives(tmp_path: Path, cache: Path, ending: str, within: str) -> None:
    source = tmp_path / "source"
    fill(source / "train")
    fill(source / "test")
    archive, files = tmp_path / f"pets.{ending}", sorted(source.rglob("*.png"))
    if ending == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in files:
                file.write(path, within + str(path.relative_to(source)))
    else:
        with tarfile.open(archive, f"w:{ending.removeprefix('tar').strip('.')}") as file:
            for path in files:
                file.add(path, within + str(path.relative_to(source)))
    data = of(archive)
    assert (data.name, len(data.datasets["train"])) == ("pets", 10)
    stamp = data.path.stat().st_mtime_ns
    assert of(archive).path.stat().st_mtime_ns == stamp  # not unpack_to_cache again
    assert {entry.name.split("-")[0] for entry in cache.iterdir()} == {"pets", "decoded"}  # nothing half done is left


def test_messages_name_the_archive_and_the_file_in_it(tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "source"
    fill(source / "train")
    fill(source / "test")
    broken = sorted((source / "train").rglob("*.png"))[0]
    broken.write_bytes(b"no image")
    member = broken.relative_to(source)
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as file:
        for path in sorted(source.rglob("*.png")):
            file.write(path, f"pets/{path.relative_to(source)}")
    for _ in range(2):  # unpacked, and found in the cache
        with pytest.raises(ConfigError) as raised:
            of(tmp_path / "pets.zip")
        assert str(raised.value).startswith(f"data.path: {tmp_path / 'pets.zip'}/{member} cannot be read as an image")
        assert str(cache) not in str(raised.value)


@pytest.mark.parametrize("name", ["../outside.png", "/outside.png"])
def test_an_archive_cannot_leave_its_folder(tmp_path: Path, cache: Path, name: str) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as file:
        entry = tarfile.TarInfo(name)
        entry.size = 3
        file.addfile(entry, io.BytesIO(b"bad"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(link)
    with pytest.raises(ConfigError, match="corrupt or not accepted"):
        unpack_to_cache(tmp_path / "evil.tar")
    assert not (tmp_path / "outside.png").exists()
    assert not Path("/outside.png").exists()
    assert [*cache.iterdir()] == []


def test_refusals(tmp_path: Path) -> None:
    def refusal(**kwargs: object) -> str:
        with pytest.raises(ConfigError) as refused:
            of(tmp_path / "images", **kwargs)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert "data.path" in refusal()
    (tmp_path / "images").mkdir()
    assert "one per class; it contains no folders" in refusal()
    fill(tmp_path / "images" / "train")
    assert "neither test/ nor val/" in refusal()
    fill(tmp_path / "images" / "test", classes=("cat", "dgo"))
    assert "differ in the classes dgo, dog" in refusal()
    (tmp_path / "images" / "test" / "dgo").rename(tmp_path / "images" / "test" / "dog")
    assert "data.size: -3" in refusal(size=-3)
    assert "data.test_split: 0" in refusal(test_split=0)
    (tmp_path / "images" / "train" / "dog" / "00.png").write_bytes(b"no image")
    for limit in (4.0, 0.0):
        data_error = refusal(memory_limit=limit) if limit else None
        assert data_error is None or "dog/00.png cannot be read as an image" in data_error
    (tmp_path / "torn.tar").write_bytes(b"torn")
    with pytest.raises(ConfigError, match=r"data.path: .*torn.tar is corrupt or not accepted"):
        ImageFolder(path=str(tmp_path / "torn.tar"))
    (tmp_path / "one.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"neither a folder nor a tar or zip archive"):
        ImageFolder(path=str(tmp_path / "one.jpg"))


def test_links_and_folders_that_cannot_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(**kwargs: object) -> str:
        with pytest.raises(ConfigError) as refused:
            of(tmp_path / "pets", **kwargs)
        return str(refused.value)

    dog = fill(tmp_path / "pets") / "dog"
    for place, target in (("ape", "ape"), ("ape", "nowhere")):
        (tmp_path / "pets" / place).symlink_to(target)
        line = f"data.path: {tmp_path}/pets/ape is a link that leads to no existing folder or file; repair or remove it"
        assert refusal() == line
        (tmp_path / "pets" / place).unlink()
    for place, target in (("dog/a", "."), ("dog/a", "../../.."), ("cat/a", "../../pets")):
        (tmp_path / "pets" / place).symlink_to(target)
        for kwargs in ({}, {"labeled": False}):
            assert f"{tmp_path}/pets/{place} is a link to a folder that contains it" in refusal(**kwargs)
        (tmp_path / "pets" / place).unlink()
    (tmp_path / "pets" / "dog" / "a").symlink_to("../cat")
    (tmp_path / "pets" / "cat" / "b").symlink_to("../dog")
    assert f"{tmp_path}/pets/cat/b/a is a link to a folder that contains it" in refusal()
    (tmp_path / "pets" / "cat" / "b").unlink()
    assert len(of(tmp_path / "pets").datasets["train"]) == 12  # a link to another folder is followed
    scandir, listdir = os.scandir, os.listdir

    def denied(path: object) -> None:  # root may read every folder
        if Path(path) == dog:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "scandir", lambda path=".": denied(path) or scandir(path))
    monkeypatch.setattr(os, "listdir", lambda path=".": denied(path) or listdir(path))
    assert refusal() == f"data.path: {dog} cannot be read: Permission denied; repair or remove it"
    dog = tmp_path / "pets"
    assert refusal() == f"data.path: {dog} cannot be read: Permission denied; repair or remove it"
