"""Images that cannot be read, and what lies beside the images in a folder."""

import traceback
from itertools import product
from pathlib import Path

import pytest
import torch
from PIL import Image

from kd_lightning.data import HorizontalFlip, ImageFolder, RandomResizedCrop, files
from kd_lightning.errors import ConfigError

WAYS = [{}, {"memory_limit": 0, "num_workers": 0}, {"memory_limit": 0, "num_workers": 2}]
SKIPS = {"size": 8, "on_error": "skip"}
pytestmark = pytest.mark.filterwarnings("ignore:.*so these images are dark")
Recorded = pytest.WarningsRecorder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images a class and split; an image's red tells its row."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split, row in product(("train", "test"), range(12)):
        file = tmp_path / "pets" / split / ("cat", "dog")[row // 6] / f"{row % 6}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (row, 0, 0)).save(file)
    return tmp_path / "pets"


@pytest.fixture
def broken(root: Path) -> list[Path]:
    """Rows 1 and 9 of train/: a torn file, whose header is whole, and a text."""
    files = [root / "train" / "cat" / "1.png", root / "train" / "dog" / "3.png"]
    files[0].write_bytes(files[0].read_bytes()[:45])
    files[1].write_text("no image")
    return files


def of(root: Path, **kwargs: object) -> ImageFolder:
    data = ImageFolder(path=str(root), **{"batch_size": 4, "val_split": 0, "augmentations": [], **kwargs})
    data.setup("fit")
    return data


def read(data: ImageFolder) -> dict[int, int]:
    """The red of each training image of an epoch, by index."""
    seen: dict[int, int] = {}
    for batch in data.train_dataloader():
        reds = batch.images[:, 0, 4, 4]
        assert torch.equal(batch.labels, (reds >= 6).long())
        seen |= zip(batch.indices.tolist(), reds.tolist(), strict=True)
    return seen


def named(recwarn: Recorded, file: Path) -> int:
    """How many warnings so far say that a file is skipped."""
    return sum(f"data.on_error: {file} cannot be read" in str(warning.message) for warning in recwarn.list)


def refusal(root: Path, **kwargs: object) -> str:
    with pytest.raises(ConfigError) as refused:
        read(of(root, **kwargs))
    traceback.clear_frames(refused.tb)  # a worker's error would keep its loader, whose workers then end after seconds
    return str(refused.value)


@pytest.mark.parametrize("kwargs", WAYS)
def test_an_unreadable_image_ends_the_run_by_name(root: Path, broken: list[Path], kwargs: dict) -> None:
    broken[0].unlink()
    words = refusal(root, **kwargs).splitlines()
    assert f"data.path: {broken[1]} cannot be read as an image (" in words[-1]
    assert len(words) == 1


@pytest.mark.parametrize("kwargs", WAYS[:2])
def test_skipped_images_are_named_once(root: Path, broken: list[Path], kwargs: dict, recwarn: Recorded) -> None:
    data = of(root, **SKIPS, batch_size=2 if kwargs else 5, **kwargs)
    assert read(data) == read(data) == {row: row for row in range(12) if row not in (1, 9)}
    assert [named(recwarn, file) for file in broken] == [1, 1]


def test_a_second_start_still_knows_what_was_skipped(root: Path, broken: list[Path], recwarn: Recorded) -> None:
    data, _ = (of(root, **SKIPS, val_split=2, batch_size=2) for _ in range(2))
    assert [named(recwarn, file) for file in broken] == [1, 1]  # decoded once
    said = [str(warning.message) for warning in recwarn.list]
    assert said.count(f"data.on_error: 2 of 12 images are skipped, e.g. {broken[0]}") == 2
    assert f"{broken[0]} cannot be read as an image" in refusal(root, size=8)
    assert (len(data.datasets["train"]), data.datasets["val"].labels.tolist()) == (8, [0, 1])
    assert not {1, 9} & {*data.datasets["train"].indices.tolist(), *data.datasets["val"].indices.tolist()}
    assert not {*map(Path, data.datasets["train"].paths())} & {*broken}


def test_workers_tell_how_many_were_skipped(root: Path, broken: list[Path]) -> None:
    data = of(root, **SKIPS, memory_limit=0, num_workers=2)
    assert {*read(data)} == {*range(12)} - {1, 9}
    assert data.datasets["train"].unreadable.nonzero()[:, 0].tolist() == [1, 9]
    with pytest.warns(UserWarning, match=r"data.on_error: 2 training images could not be read"):
        data.teardown("fit")


def test_empty_files_are_counted_with_the_other_unreadable_files(
    root: Path, broken: list[Path], recwarn: Recorded
) -> None:
    (root / "train/cat/0.png").write_bytes(b"")
    of(root, **SKIPS)
    said = [str(warning.message) for warning in recwarn.list if "skipped, e.g." in str(warning.message)]
    assert said == [f"data.on_error: 3 of 12 images are skipped, e.g. {broken[0]}"]


def test_skipped_images_in_several_views_cut_from_the_files(root: Path, broken: list[Path], recwarn: Recorded) -> None:
    steps = [RandomResizedCrop(), HorizontalFlip()]
    data = of(root, **SKIPS | {"size": 6}, batch_size=12, num_workers=0, views=2, augmentations=steps)
    (batch,) = map(data.augmented, data.train_dataloader())
    assert [named(recwarn, file) for file in broken] == [1, 1]
    assert {*batch.indices.tolist()} == {*range(12)} - {1, 9}
    for view in (batch.images, batch.views[0]):
        assert torch.equal(view[:, 0, 4, 4].long(), batch.indices)


def test_a_batch_without_any_image_is_an_error(root: Path, broken: list[Path], recwarn: Recorded) -> None:
    words = "data.on_error: no image of a batch of 1 can be read; repair or remove these images"
    assert refusal(root, **SKIPS, **WAYS[1], batch_size=1) == words


@pytest.mark.parametrize("kwargs", WAYS[:2])
def test_links_to_nowhere_are_skipped(root: Path, kwargs: dict, recwarn: Recorded) -> None:
    link = root / "train" / "cat" / "7.png"
    link.symlink_to(root / "nowhere.png")
    assert len(read(of(root, **SKIPS, batch_size=12, **kwargs))) == 12
    assert named(recwarn, link) == 1


def test_other_files_are_counted_and_classes_may_be_empty_in_the_test(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(files, "rank_zero_info", said.append)
    for name in ("cat/notes.txt", "cat/._0.png", "cat/.thumbnails/0.png", "cat/__MACOSX/0.png", ".hidden/0.png"):
        (root / "train" / name).parent.mkdir(exist_ok=True)
        (root / "train" / name).write_text("no image")
    for split in ("train", "test"):
        (root / split / "bat").mkdir()
    words = f"data.path: {root}/train/bat contains no images, but each class needs training images; add images, or"
    assert refusal(root).startswith(words)
    Image.new("RGB", (8, 8), (0, 0, 0)).save(root / "train" / "bat" / "0.png")
    data = of(root)
    with pytest.warns(UserWarning, match=rf"data.path: {root}/test/bat has no images, so the class is empty"):
        data.setup("test")
    assert data.class_names == ["bat", "cat", "dog"]
    assert data.datasets["train"].labels.tolist() == [0] + [1] * 6 + [2] * 6
    assert [
        line
        for line in said
        if line.startswith(f"{root}/train: 2 files are skipped that cannot be read as images: 1 .txt, 1 hidden")
    ]


def test_a_bare_tree_without_labels(root: Path) -> None:
    (root / "a" / "b" / "c").mkdir(parents=True)
    for file in ("a/b/c/0.PNG", "0.png", ".0.png"):
        Image.new("RGB", (8, 8)).save(root / file)
    data = of(root, labeled=False, num_classes=3, val_split=0.5, test_split=0)
    assert (data.num_classes, data.has_validation, [*data.datasets]) == (3, True, ["train", "val"])
    assert data.datasets["val"].labels.tolist() == [-1] * 13
    data = of(root, labeled=False, num_classes=3, val_split=0, test_split=0)
    assert data.datasets["train"].labels.tolist() == [-1] * 26
    first = [str(Path(path).relative_to(root)) for path in data.datasets["train"].paths()[:3]]
    assert first == ["0.png", "a/b/c/0.PNG", "test/cat/0.png"]
    (root / "empty").mkdir()
    assert refusal(root / "empty", labeled=False) == f"data.path: {root}/empty contains no images"
