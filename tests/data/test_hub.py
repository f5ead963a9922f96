"""HFDataset from parquet files made here; nothing of the hub is asked."""

from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from kd_lightning.data import HFDataset
from kd_lightning.errors import ConfigError

datasets = pytest.importorskip("datasets")

PETS = datasets.ClassLabel(names=["dog", "cat", "ape"])  # in an order of their own


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads these variables when it is imported, so what it made of them is set too."""
    home = tmp_path / "hf"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in {"HF_HOME": home, "HF_DATASETS_CACHE": home / "datasets", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(home / "modules"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def png(red: int) -> bytes:
    content = BytesIO()
    Image.new("RGB", (4, 4), (red, 0, 0)).save(content, "PNG")
    return content.getvalue()


def write(folder: Path, kind: object = None, image: object = "image", **splits: list) -> str:
    """A parquet file for each split, given by its labels; an image's red is its row, None for a label: no image."""
    features = datasets.Features({"image": datasets.Image(), "label": kind or datasets.Value("string")})
    folder.mkdir()
    for split, labels in splits.items():
        cells = pa.array([{"bytes": png(row), "path": None} for row in range(len(labels))])
        cells = cells.cast(pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        if image is None:
            cells = pa.array([None, *cells.to_pylist()[1:]], cells.type)
        table = pa.table({"image": cells, "label": pa.array(labels)}).cast(features.arrow_schema)
        pq.write_table(table, folder / f"{split}.parquet")
    return str(folder)


def of(path: str, **kwargs: object) -> HFDataset:
    data = HFDataset(path=path, **{"batch_size": 2, "val_split": 0, **kwargs})
    data.setup("fit")
    data.setup("test")
    return data


def refusal(path: str, **kwargs: object) -> str:
    with pytest.raises(ConfigError) as refused:
        of(path, **kwargs)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_class_label_keeps_its_order(tmp_path: Path) -> None:
    data = of(write(tmp_path / "pets", PETS, train=[0, 2, 1, 1], test=[1, 0]))
    assert (data.name, data.num_classes, data.class_names) == ("pets", 3, ["dog", "cat", "ape"])
    train = data.datasets["train"]
    assert train.labels.tolist() == [0, 2, 1, 1]
    assert train.indices.tolist() == [0, 1, 2, 3]
    assert train.take(torch.arange(4)).images[:, 0, 3, 3].tolist() == [0, 1, 2, 3]
    assert data.datasets["test"].labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("train", "test", "classes"), [(["b", "a", "b"], ["b"], ["a", "b"]), ([30, 4, 30], [30], ["4", "30"])]
)
def test_other_labels_are_sorted(tmp_path: Path, train: list, test: list, classes: list[str]) -> None:
    kind = datasets.Value("string" if isinstance(train[0], str) else "int64")
    data = of(write(tmp_path / "pets", kind, train=train, test=test))
    assert data.class_names == classes
    assert data.datasets["train"].labels.tolist() == [1, 0, 1]
    assert data.datasets["test"].labels.tolist() == [1]


def test_splits_by_other_names(tmp_path: Path) -> None:
    path = write(tmp_path / "pets", PETS, train=[0, 1, 2, 0, 1, 2], validation=[0, 1, 2])
    data = of(path)
    assert not data.has_validation
    assert {split: len(images) for split, images in data.datasets.items()} == {"train": 6, "test": 3}
    for same in ({"val": "train"}, {"val": "validation"}, {"test": "train"}):  # validation is the test by default
        assert "are the same split" in refusal(path, **same)
    path = write(tmp_path / "more", PETS, train=[0, 1, 2, 0, 1, 2], validation=[0, 1, 2], test=[0, 1])
    data = of(path, train="validation", val="train")
    assert data.has_validation
    assert {split: len(images) for split, images in data.datasets.items()} == {"train": 3, "val": 6, "test": 2}


@pytest.mark.parametrize("kwargs", [{}, {"memory_limit": 0, "num_workers": 0}])
def test_without_labels(tmp_path: Path, kwargs: dict) -> None:
    path = write(tmp_path / "pets", train=["x", "y", "x"])
    data = of(path, labeled=False, num_classes=7, size=2, val_split=0, test_split=0, **kwargs)
    assert (data.num_classes, data.class_names, data.has_validation) == (7, [], False)
    (batch,) = data.test_dataloader()
    assert batch.labels.tolist() == [-1, -1, -1]
    assert batch.images.shape == (3, 3, 2, 2)
    assert batch.images[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_what_is_decoded_is_found_again(tmp_path: Path) -> None:
    path = write(tmp_path / "pets", train=["x", "y", "x"], test=["x", "y"])
    origins = [of(path).datasets["train"].origin for _ in range(2)]
    assert ["from the disk cache" in origin for origin in origins] == [False, True]


def test_a_set_with_only_training_images(tmp_path: Path) -> None:
    path = write(tmp_path / "pets", PETS, train=[0, 1, 2] * 10)
    data = of(path, split_seed=3)
    train, test = data.datasets["train"], data.datasets["test"]
    assert (len(train), test.labels.bincount().tolist()) == (24, [2, 2, 2])
    assert sorted([*train.indices.tolist(), *test.indices.tolist()]) == [*range(30)]
    assert torch.equal(of(path, split_seed=3, seed=5).datasets["test"].indices, test.indices)
    assert len(of(path, test_split=9).datasets["test"]) == 9
    assert "data.test_split: 0.99 means 30 of 30 images" in refusal(path, test_split=0.99)
    assert "data.test_split: 0.0 is not above 0" in refusal(path, test_split=0.0)
    assert "data.test: " in refusal(path, test="test")
    assert "has no split 'test'" in refusal(path, test="test")
    unlabeled = of(path, split_seed=3, labeled=False, num_classes=3, val_split=0.25)
    for split, images in of(path, split_seed=3, val_split=0.25).datasets.items():  # the same split, and no labels
        assert torch.equal(unlabeled.datasets[split].indices, images.indices)
        assert unlabeled.datasets[split].labels.eq(-1).all()
    assert unlabeled.held_out.startswith("6 test images")
    assert len(of(path, labeled=False, test_split=0, num_classes=3).datasets["train"]) == 30
    (tmp_path / "other").mkdir()
    splits = {"train-00000-of-00001": [0, 1, 2] * 4, "extra-00000-of-00001": [0, 1, 2]}
    write(tmp_path / "other" / "data", PETS, **splits)
    words = f"data.test: {tmp_path}/other has no split 'test'; choices: extra, train"
    assert refusal(str(tmp_path / "other")) == words


def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "pets", PETS, train=[0, 2, 0, 2], test=[1, 0])
    with pytest.warns(UserWarning, match="data: 1 of 3 classes have no training images, for example 'cat'"):
        assert of(path).num_classes == 3


def test_refusals(tmp_path: Path) -> None:
    path = write(tmp_path / "pets", train=["x", "y", "x"], test=["x", "y"])
    assert "data.train: " in (words := refusal(path, train="trian"))
    assert "has no split 'trian'; nearest: train" in words
    assert "has no split 'dev'; choices: test, train" in refusal(path, val="dev")
    assert "data.test: " in refusal(path, test="dev")
    assert "data.image_column: there is no column 'img'; choices: image" in refusal(path, image_column="img")
    assert "data.label_column: there is no column 'pet'; choices: label" in refusal(path, label_column="pet")
    assert "data.path: no/where is not a local folder" in refusal("no/where")
    other = write(tmp_path / "other", train=["x", "y"], test=["x", "z"])
    assert "data.label_column: the split 'test' has the class z, which the training split lacks" in refusal(other)


CASES = {
    "val with another class": ({"train": ["x", "y"], "validation": ["x", "z"], "test": ["x"]}, {"val": "validation"}),
    "train with an empty label": ({"train": ["x", None, "y"], "test": ["x"]}, {}),
    "train with a ClassLabel's -1": ({"kind": PETS, "train": [0, -1, 1], "test": [0]}, {}),
    "no images in the column": ({"train": ["x", "y"], "test": ["x"]}, {"image_column": "label"}),
    "images as labels": ({"train": ["x", "y"], "test": ["x"]}, {"label_column": "image"}),
    "an empty image": ({"image": None, "train": ["x", "y"], "test": ["x"]}, {}),
}


RAISED = (KeyError, TypeError, pa.ArrowNotImplementedError)


@pytest.mark.parametrize("case", CASES)
def test_unfit_columns_are_one_line(tmp_path: Path, case: str) -> None:
    table, kwargs = CASES[case]
    refusal(write(tmp_path / "pets", **table), **kwargs)


def test_one_class_and_a_path_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "pets", train=["a"] * 4, test=["a"])
    assert "data.label_column: label has 1 class; at least two" in refusal(path)
    assert f"{tmp_path / 'pest'} does not exist; nearest: pets" in refusal(str(tmp_path / "pest"))
