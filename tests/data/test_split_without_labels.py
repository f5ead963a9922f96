"""A run without labels trains and validates on the images of the run with labels, and never reads its test images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kd_lightning.data import ImageFolder, folder
from kd_lightning.errors import ConfigError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def fill(root: Path, *names: str, count: int = 10) -> Path:
    for seed, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed)
        for number in range(count):
            pixels = noise.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02}.png")
    return root


def paths_of(root: Path, *, labeled: bool, **kwargs: object) -> tuple[dict[str, list[str]], ImageFolder]:
    data = ImageFolder(path=str(root), labeled=labeled, **{"batch_size": 2, "val_split": 0.2, **kwargs})
    data.setup("fit")
    data.setup("test")
    return {split: images.paths() for split, images in data.datasets.items()}, data


CLASSES = ("ant", "bee", "cat")
LAYOUTS = {
    "class folders": [*CLASSES],
    "train and test": [f"{split}/{name}" for split in ("train", "test") for name in CLASSES],
    "train and val": [f"{split}/{name}" for split in ("train", "val") for name in CLASSES],
    "all three": [f"{split}/{name}" for split in ("train", "valid", "test") for name in CLASSES],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "kwargs", [{}, {"split_seed": 5, "test_split": 9, "max_train_samples": 7}, {"memory_limit": 0}]
)
def test_the_split_is_that_of_the_run_with_labels(layout: str, kwargs: dict, tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", *LAYOUTS[layout])
    (root / "stray.png").write_bytes((root / LAYOUTS[layout][0] / "00.png").read_bytes())
    labelled, _ = paths_of(root, labeled=True, **kwargs)
    bare, data = paths_of(root, labeled=False, **kwargs)
    assert bare == labelled
    assert all(images.labels.eq(-1).all() for images in data.datasets.values())
    assert not {*bare["train"]} & {*bare["test"]}
    assert data.held_out.startswith(f"{len(bare['test'])} test images (")


def test_train_and_test_without_class_folders(tmp_path: Path) -> None:
    split, data = paths_of(fill(tmp_path / "photos", "train", "test"), labeled=False)
    assert [len(paths) for paths in split.values()] == [8, 2, 10]
    assert {Path(path).parent.name for path in split["train"] + split["val"]} == {"train"}
    assert data.held_out.startswith(f"10 test images (all images in {tmp_path}/photos/test), as in a run with labels;")


@pytest.mark.parametrize("names", [[], ["a"], ["train/ant", "train/bee"]])
def test_a_folder_without_a_labelled_layout_is_used_as_a_whole(names: list[str], tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", "", *names)
    (root / "empty").mkdir()
    split, data = paths_of(root, labeled=False, val_split=0)
    assert split["train"] == split["test"]
    assert len(split["train"]) == 10 * (1 + len(names))
    assert data.held_out == "no test images, because the images are not in class folders"


def test_test_split_0_uses_every_image(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", "", *LAYOUTS["train and test"])
    split, data = paths_of(root, labeled=False, val_split=0, test_split=0)
    assert split["train"] == split["test"]
    assert len(split["train"]) == 70
    assert data.held_out == "no test images, because data.test_split is 0"
    with pytest.raises(ConfigError, match=r"data.test_split: 0 is not above 0"):
        ImageFolder(path=str(root), test_split=0)


def test_what_is_held_out_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(folder, "rank_zero_info", said.append)
    root = fill(tmp_path / "photos", "", *CLASSES)
    paths_of(root, labeled=False)
    assert said == [
        f"data.labeled: false holds out 6 test images (drawn from the folders in {root} by data.test_split 0.2), and "
        f"10 images of {root} outside of its folders, as in a run with labels; data.test_split 0 uses every image"
    ]


def test_a_library_by_dates_is_refused_with_what_to_do(tmp_path: Path) -> None:
    """Its folders look like classes, but have too few images to be split."""
    root = fill(tmp_path / "photos", *(f"2024-01-{day:02}" for day in range(1, 9)), count=1)
    with pytest.raises(
        ConfigError, match=r"data.test_split: 0.2 means 2 of 8 .*; 0 uses every image and holds out none"
    ):
        paths_of(root, labeled=False)
    fill(root, "2024-02", count=30)
    with pytest.raises(ConfigError, match=r"stratified by class .*; 0 uses every image and holds out none"):
        paths_of(root, labeled=False, test_split=10)
    split, _ = paths_of(root, labeled=False, test_split=0)
    assert len(split["train"]) + len(split["val"]) == 38


def test_unreadable_images_do_not_change_the_split(tmp_path: Path) -> None:
    root = fill(tmp_path / "photos", *CLASSES)
    for name in ("ant/03.png", "bee/04.png"):
        (root / name).write_bytes((root / name).read_bytes()[:60])
    labelled, _ = paths_of(root, labeled=True, on_error="skip")
    bare, _ = paths_of(root, labeled=False, on_error="skip")
    assert bare == labelled
    for file in (root / "cat").iterdir():
        file.write_bytes(file.read_bytes()[:60])
    bare, _ = paths_of(root, labeled=False, on_error="skip")
    assert torch.tensor([len(paths) for paths in bare.values()]).sum() == 18
