"""Which of the images that `predict` reads are training images of the run, also in archives and in copies."""

import shutil
from pathlib import Path

import pytest
from jsonargparse import Namespace

from kd_lightning.data.archives import unpack_to_cache
from kd_lightning.runs.training_images import TrainingImages


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes with two files each; only the content of the files matters."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(4):
        file = tmp_path / "photos" / ("cat", "dog")[number // 2] / f"{number % 2}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes([number] * 100))
    return tmp_path / "photos"


def note(trained: Path, *read: Path) -> str:
    config = Namespace(data=Namespace(init_args=Namespace(path=str(trained))))
    files = [str(file) for folder in read for file in sorted(folder.rglob("*.jpg"))]
    return TrainingImages.of(config).note(files)


def archive(folder: Path, kind: str) -> Path:
    return Path(shutil.make_archive(str(folder.with_name("packed")), kind, folder))


def test_images_in_the_folder_count_but_others_do_not(photos: Path, tmp_path: Path) -> None:
    assert note(photos, photos / "dog").startswith(f"; 2 of the 2 images are in {photos}, from which the run was tr")
    other = shutil.copytree(photos / "cat", tmp_path / "new/cat")
    for file in other.iterdir():
        file.write_bytes(b"another image")
    assert note(photos, other) == ""


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_images_in_archives_count(kind: str, photos: Path) -> None:
    packed = archive(photos, kind)
    unpacked = unpack_to_cache(packed)
    assert note(photos, unpacked).startswith(f"; 4 of the 4 images are in {photos}, ")
    assert note(packed, unpacked).startswith(f"; 4 of the 4 images are in {packed}, ")
    assert note(packed, photos).startswith(f"; 4 of the 4 images are in {packed}, ")


def test_an_archive_that_is_not_in_the_cache_is_not_unpacked(photos: Path, tmp_path: Path) -> None:
    config = Namespace(data=Namespace(init_args=Namespace(path=str(archive(photos, "zip")))))
    assert TrainingImages.of(config) is None
    assert not (tmp_path / "cache").exists()


def test_only_copies_with_the_same_name_and_content_count(photos: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(photos, tmp_path / "moved")
    (moved / "cat/0.jpg").write_bytes(b"replaced")
    assert note(photos, moved).startswith("; 3 of the 4 images are in ")
    (moved / "dog").rename(moved / "hound")
    assert note(photos, moved).startswith(f"; 1 of the 4 images is in {photos}, ")


def test_the_test_images_of_a_folder_with_splits_do_not_count(photos: Path, tmp_path: Path) -> None:
    splits = tmp_path / "splits"
    shutil.move(photos / "cat", splits / "train/cat")
    shutil.move(photos / "dog", splits / "test/cat")
    assert note(splits, splits / "test") == ""
    packed = archive(splits, "tar")
    assert note(packed, unpack_to_cache(packed)).startswith(f"; 2 of the 4 images are in {packed}/train, ")
