"""CINIC-10's layout, made small here."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from kd_lightning.data import CIFAR10, CINIC10
from kd_lightning.errors import ConfigError

COUNTS = {"train": 3, "valid": 2, "test": 1}


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images whose red tells the class, whose green tells the split."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for split, count in COUNTS.items():
        for label, name in enumerate(CIFAR10.class_names):
            (tmp_path / "CINIC-10" / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (32, 32), (label, count, 0))
                image.save(tmp_path / "CINIC-10" / split / name / f"cifar10-{split}-{number}.png")
    return tmp_path / "CINIC-10"


def test_train_valid_and_test(official: Path) -> None:
    data = CINIC10(path=str(official), batch_size=4)
    data.setup("fit")
    data.setup("test")
    assert (data.name, data.num_classes, data.has_validation) == ("cinic10", 10, True)
    assert data.class_names == CIFAR10.class_names
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        batch = data.datasets[split].take(torch.arange(10 * count))
        assert len(data.datasets[split]) == 10 * count
        assert batch.images.shape[1:] == (3, 32, 32)
        assert torch.equal(batch.images[:, 0, 9, 9].long(), batch.labels)
        assert (batch.images[:, 1] == count).all()
        assert batch.labels.tolist() == [label for label in range(10) for _ in range(count)]


def test_other_classes_are_refused(official: Path) -> None:
    for split in COUNTS:
        (official / split / "truck").rename(official / split / "lorry")
    with pytest.raises(ConfigError, match=r"data.path: .* has the classes airplane, .* not those of CINIC-10"):
        CINIC10(path=str(official))
    (official / "valid" / "lorry").rename(official / "valid" / "truck")
    with pytest.raises(ConfigError, match=r"data.path: .*valid and train/ differ in the classes lorry, truck"):
        CINIC10(path=str(official))


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data.path: .*CINIC-11 does not exist$"):
        CINIC10(path=str(tmp_path / "CINIC-11"))
