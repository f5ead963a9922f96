"""CIFAR-10 and CIFAR-100 from class folders and archives of them, made here."""

import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from kd_lightning.data import CIFAR10, CIFAR100, cifar_classes
from kd_lightning.errors import ConfigError

COARSE = [  # the official coarse label of each fine label
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1),
    *(10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12),
    *(12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0),
    *(17, 8, 14, 13),
]


def write(folder: Path, names: list[str], count: int, side: int = 32) -> None:
    """Write images whose red value is the number of the class."""
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (side, side), (label, number, 0)).save(folder / name / f"{number}.png")


pytestmark = pytest.mark.filterwarnings("ignore:.*so these images are dark")


@pytest.fixture
def splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "cifar10" / "train", CIFAR10.class_names, 3)
    write(tmp_path / "cifar10" / "test", CIFAR10.class_names, 1)
    return tmp_path / "cifar10"


def loaded(data: CIFAR10) -> dict[str, torch.Tensor]:
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    for images in data.datasets.values():
        batch = images.take(torch.arange(len(images)))
        assert batch.images.shape[1:] == (3, 32, 32)
    return {split: images.labels for split, images in data.datasets.items()}


@pytest.mark.parametrize("form", ["folder", "tar.xz", "tar.gz", "zip"])
def test_train_and_test_folders_and_archives(splits: Path, form: str) -> None:
    path = splits
    if form.startswith("tar"):
        path = splits.with_name(f"cifar10.{form}")
        with tarfile.open(path, f"w:{form[4:]}") as file:
            file.add(splits, "cifar10")
    elif form == "zip":
        path = splits.with_name("cifar10.zip")
        with zipfile.ZipFile(path, "w") as file:
            for image in splits.rglob("*.png"):
                file.write(image, image.relative_to(splits.parent))
    data = CIFAR10(path=str(path), val_split=0, batch_size=4)
    labels = loaded(data)
    assert labels["train"].tolist() == [label for label in range(10) for _ in range(3)]
    assert labels["test"].tolist() == [*range(10)]
    batch = data.datasets["train"].take(torch.arange(30))
    assert torch.equal(batch.images[:, 0, 9, 9].long(), batch.labels)
    assert data.class_names == CIFAR10.class_names
    assert data.name_in_results == "cifar10-folders"  # not compared with the official files
    assert CIFAR10(path=str(splits / "train" / "dog" / "nowhere")).name_in_results == "cifar10"


def test_class_folders_without_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "all", CIFAR100.class_names, 5)  # one of the classes is called train
    labels = loaded(CIFAR100(path=str(tmp_path / "all"), val_split=0, batch_size=4))
    assert labels["train"].bincount().tolist() == [4] * 100
    assert labels["test"].bincount().tolist() == [1] * 100


def test_coarse_labels_are_the_official_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split in ("train", "test"):
        write(tmp_path / "cifar100" / split, CIFAR100.class_names, 1)
    data = CIFAR100(path=str(tmp_path / "cifar100"), labels="coarse", val_split=0, batch_size=4)
    assert loaded(data)["test"].tolist() == COARSE
    assert torch.tensor(COARSE).bincount().tolist() == [5] * 20
    assert [cifar_classes.SUPERCLASS_OF[name] for name in CIFAR100.class_names] == COARSE
    assert data.class_names == sorted(data.class_names)
    assert (CIFAR100.class_names, len(CIFAR100.class_names)) == (sorted({*CIFAR100.class_names}), 100)


def test_wrong_folders_are_one_line(splits: Path) -> None:
    def error(path: Path = splits) -> str:
        with pytest.raises(ConfigError) as raised:
            loaded(CIFAR10(path=str(path), batch_size=4))
        assert "\n" not in str(raised.value)
        return str(raised.value)

    shutil.rmtree(splits / "test" / "truck")
    assert error() == f"data.path: {splits / 'test'} and train/ differ in the classes truck"
    shutil.rmtree(splits / "train" / "truck")
    lacking = "has no folders for 1 of the classes of cifar10, for example 'truck'; add these folders"
    assert error() == f"data.path: {splits / 'train'} {lacking}"
    for split in ("train", "test"):
        (splits / split / "ship").rename(splits / split / "shipp")
    words = f"data.path: {splits / 'train'} has the class 'shipp', which cifar10 does not have; nearest: ship"
    assert error().startswith(words)
    write(splits.with_name("pets"), ["cat_", "dogs"], 5)
    assert "pets has the class 'cat_', which cifar10 does not have" in error(splits.with_name("pets"))
    assert error(splits.with_name("none.tar.xz")).startswith(
        f"data.path: {splits.with_name('none.tar.xz')} does not exist"
    )
    assert "names an environment variable that is not set" in error(Path("$NOT_SET_HERE/cifar10"))


def test_images_of_another_size_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split in ("train", "test"):
        write(tmp_path / split, CIFAR10.class_names, 1, side=48)
    advice = "pixels; give images of 32x32 pixels$"
    with pytest.raises(ConfigError, match=rf"^data.path: .*/train/airplane/0.png has 48x48 {advice}"):
        loaded(CIFAR10(path=str(tmp_path), batch_size=4))
    for image in tmp_path.rglob("*.png"):
        Image.new("RGB", (32, 40 if image.parent.name == "truck" else 32)).save(image)
    with pytest.raises(ConfigError, match=rf"^data.path: .*/train/truck/0.png has 32x40 {advice}"):
        loaded(CIFAR10(path=str(tmp_path), batch_size=4))


def test_a_folder_of_neither_form_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes").mkdir()
    official = type("Official", (CIFAR10.official,), {"url": "http://127.0.0.1:9/nowhere.tar.gz"})
    monkeypatch.setattr(CIFAR10, "official", official)
    with pytest.raises(ConfigError, match=r"^data.path: .*cifar-10-python.tar.gz is missing and .* put the file there"):
        CIFAR10(path=str(tmp_path)).prepare_data()


def test_a_wrong_level_is_one_line_and_downloads_nothing(splits: Path) -> None:
    above = splits.parent / "above"
    above.mkdir()
    shutil.move(splits, above / "cifar10")
    (splits.parent / "file.txt").write_text("x")
    for path, line in {
        above: f"data.path: {above} has no class folders; nearest: {above / 'cifar10'}",
        above / "cifar10/train/dog": "contains images; give the folder that contains one folder per class",
        splits.parent / "file.txt": "is neither a folder nor an archive",
    }.items():
        with pytest.raises(ConfigError) as raised:
            loaded(CIFAR10(path=str(path)))
        assert line in str(raised.value)


def test_a_class_without_an_image_is_one_line(splits: Path) -> None:
    shutil.rmtree(splits / "test/dog")
    (splits / "test/dog").mkdir()
    with pytest.raises(ConfigError, match=r"data.path: the test split has no image of the class 'dog'; add images"):
        loaded(CIFAR10(path=str(splits), val_split=0, batch_size=4))


def test_advice_names_only_arguments_of_the_data_set(splits: Path) -> None:
    for split in ("train", "test"):
        shutil.rmtree(splits / split)
    write(splits, CIFAR10.class_names, 1)
    with pytest.raises(ConfigError, match=r"^data.path: .*; add images, or give the folders train/ and test/$"):
        loaded(CIFAR10(path=str(splits), val_split=0, batch_size=4))


def test_a_failed_download_leaves_no_new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ConfigError, match=r"data.path: .* cannot be downloaded"):
        loaded(CIFAR10(path=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()
