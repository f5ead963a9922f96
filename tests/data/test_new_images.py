"""Images of any folder, files or list: which are found, their labels, and how they are prepared."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kd_lightning.data import files
from kd_lightning.data.new_images import NewImages
from kd_lightning.errors import ConfigError

CLASSES = ["cat", "dog"]


def image(path: Path, width: int = 8, height: int = 8, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def found(*paths: Path | str, **kwargs: object) -> tuple[list[str], list[int]]:
    """Return the paths and labels of the images in some places."""
    data = NewImages(paths=[str(path) for path in paths], size=8, num_classes=2, class_names=CLASSES, **kwargs)
    data.setup("predict")
    images = data.datasets["test"]
    return images.paths(), images.labels.tolist()


def test_labels_are_the_folders_that_have_the_name_of_a_class(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.png", "test/dog/deep/3.jpg", "other/4.png", "5.png"):
        image(tmp_path / name)
    paths, labels = found(tmp_path)
    assert {str(Path(path).relative_to(tmp_path)): label for path, label in zip(paths, labels, strict=True)} == {
        "dog/1.png": 1,
        "cat/2.png": 0,
        "test/dog/deep/3.jpg": 1,
        "other/4.png": -1,
        "5.png": -1,
    }
    assert NewImages(paths=[str(tmp_path / "dog/1.png")], size=8, class_names=CLASSES).labeled is False


def test_two_classes_of_one_name_give_no_label(tmp_path: Path) -> None:
    image(tmp_path / "crane/1.png")
    data = NewImages(paths=[str(tmp_path)], size=8, class_names=["crane", "crane"])
    assert not data.labeled


def test_folders_and_lists_may_name_classes_by_their_ids(tmp_path: Path) -> None:
    ids = ["n02012849", "n03126707"]
    for name in (*ids, "crane"):
        image(tmp_path / name / "1.png")
    (tmp_path / "list.csv").write_text(f"crane/1.png,{ids[1]}\n")
    given = {"size": 8, "class_names": ["crane", "crane"], "class_ids": ids}
    data = NewImages(paths=[str(tmp_path), str(tmp_path / "list.csv")], **given)
    data.setup("predict")
    images = data.datasets["test"]
    assert [Path(path).parent.name for path in images.paths()] == ["crane", *ids, "crane"]
    assert images.labels.tolist() == [-1, 0, 1, 1]


def test_unreadable_images_are_counted_and_not_called_test_images(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        image(tmp_path / name)
    (tmp_path / "empty.png").touch()
    data = NewImages(paths=[str(tmp_path)], size=8, on_error="skip")
    with pytest.warns(UserWarning, match=r"empty\.png cannot be read as an image and is skipped"):
        data.setup("predict")
    with pytest.warns(UserWarning, match=r"^data.on_error: 1 image could not be read$"):
        data.teardown("predict")
    (tmp_path / "text.png").write_text("no image")
    data = NewImages(paths=[str(tmp_path)], size=8, on_error="skip", eval_batch_size=3)
    with pytest.warns(UserWarning, match=r"empty\.png cannot be read"):
        data.setup("predict")
    with pytest.warns(UserWarning, match=r"text\.png cannot be read"):
        assert sum(len(batch.labels) for batch in data.predict_dataloader()) == 2
    with pytest.warns(UserWarning, match=r"^data.on_error: 2 images could not be read$"):
        data.teardown("predict")


def test_other_files_are_counted_as_by_every_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SUFFIXES", files.SUFFIXES - files.HEIC_SUFFIXES)
    for name in ("a.heic", "b.heic", "c.mov"):
        (tmp_path / name).write_text("x")
    words = "2 .heic, 1 .mov; pip install 'kd_lightning[heic]' reads HEIC files"
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path} contains no images, but {words}")):
        found(tmp_path)
    said: list[str] = []
    monkeypatch.setattr(files, "rank_zero_info", said.append)
    image(tmp_path / "1.png")
    found(tmp_path)
    assert said[0].startswith(f"{tmp_path}: 3 files are skipped that cannot be read as images: {words}")


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("list.txt", "a, b.png\ndog/1.png\n\n", [-1, -1]),
        ("list.txt", "a, b.png\tcat\ndog/1.png\tdog", [0, 1]),
        ("list.txt", "a, b.png, cat\ndog/1.png,dog", [0, 1]),
        ("list.csv", '"a, b.png",cat\ndog/1.png,\n', [0, -1]),
        ("list.csv", '\ufeffnumber,Label,Path\n1,cat,"a, b.png"\n2,dog,dog/1.png\n', [0, 1]),
        ("list.csv", 'path,score\n"a, b.png",cat\ndog/1.png,3', [-1, -1]),
    ],
)
def test_lists(name: str, text: str, labels: list[int], tmp_path: Path) -> None:
    images = [str(image(tmp_path / file)) for file in ("a, b.png", "dog/1.png")]
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert found(tmp_path / name) == (images, labels)


def test_the_given_folder_may_be_a_class_folder(tmp_path: Path) -> None:
    images = [str(image(tmp_path / "dog" / name)) for name in ("1.png", "cat/1.png")]
    assert found(tmp_path / "dog") == (images, [1, 0])


def test_a_wrong_line_says_what_separates_path_and_class(tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    for name, words in (("a.txt", "a tab or a comma"), ("a.tsv", "a tab"), ("a.csv", "a comma")):
        (tmp_path / name).write_text("1.png;dog")
        with pytest.raises(ConfigError, match=f"no file '1.png;dog'; {words} separates the path and the class"):
            found(tmp_path / name)


def test_one_skipped_file_is_singular(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(files, "rank_zero_info", said.append)
    files.say_skipped(tmp_path, ["a.mov"])
    assert said == [f"{tmp_path}: 1 file is skipped that cannot be read as an image: 1 .mov"]


def test_paths_of_a_list_may_be_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path / "here/1.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/a.txt").write_text("here/1.png")
    monkeypatch.chdir(tmp_path)
    assert found("lists/a.txt", "here") == (["here/1.png", "here/1.png"], [-1, -1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gone.png", "list.csv, line 1: there is no file 'gone.png'"),
        ("path,label\n1.png,dgo", "list.csv, line 2: 'dgo' is not a class of the run; nearest: dog"),
        ("path,label\n", "list.csv names no images"),
        ("", "list.csv names no images"),
        ("a\0b", "line 1: there is no file"),
        (b"\xff\xfe", "cannot be read as a list of images"),
    ],
)
def test_wrong_lists_are_one_line(text: str | bytes, words: str, tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    (tmp_path / "list.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        found(tmp_path / "list.csv")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_places_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.heic").write_text("x")
    image(tmp_path / "photos/1.png")
    for place, words in (
        ("empty", "empty contains no images"),
        ("phtos", "phtos does not exist; nearest: photos"),
        ("text.heic", "text.heic (its content is not an image of a supported format"),
    ):
        with pytest.raises(ConfigError) as caught:
            found(tmp_path / place)
        assert words in str(caught.value)


def test_unreadable_images_are_named_and_skipped(tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"2.png cannot be read as an image .*data.on_error"):
        found(tmp_path)
    with pytest.warns(UserWarning, match=r"2.png cannot be read as an image and is skipped"):
        paths, _ = found(tmp_path, on_error="skip")
    assert paths == [str(tmp_path / "1.png")]


def test_images_are_decoded_when_they_are_needed(tmp_path: Path) -> None:
    for number in range(3):
        image(tmp_path / f"{number}.png", 20, 16, seed=number)
    data = NewImages(paths=[str(tmp_path)], size=8, crop_ratio=0.5)
    data.setup("predict")
    assert type(data.datasets["test"]).__name__ == "EncodedImages"
    (batch,) = data.predict_dataloader()
    assert batch.images.shape == (3, 3, 8, 8)
    with Image.open(tmp_path / "1.png") as file:
        expected = file.resize((8, 8), Image.Resampling.BICUBIC, (6, 4, 14, 12))
    assert torch.equal(batch.images[1], torch.from_numpy(np.array(expected)).permute(2, 0, 1))
    with pytest.raises(ConfigError, match="only be read by predict and embed"):
        data.load("train")
    assert json.dumps(data.name_of_predictions) == f'"{tmp_path.name}"'
