"""Splits, order and batches: functions of seeds and indices alone, whatever the batch size, workers or ranks."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from kd_lightning.batch import Batch
from kd_lightning.data import Digits, ImageData, ImageFolder
from kd_lightning.data.neighbors import Neighbors
from kd_lightning.data.samplers import EpochSampler
from kd_lightning.errors import ConfigError


def ready(data: ImageData, stage: str = "fit") -> ImageData:
    data.setup(stage)
    return data


def test_digits_are_scikit_learns() -> None:
    data = ready(ready(Digits()), "test")
    counts = {split: len(images) for split, images in data.datasets.items()}
    assert counts == {"train": 1293, "val": 144, "test": 360}
    indices = torch.cat([images.indices for images in data.datasets.values()])
    assert torch.equal(indices.sort().values, torch.arange(1797))
    images = data.datasets["test"].take(torch.arange(360)).images
    assert images.shape == (360, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert images.max() == 255
    assert torch.equal(images[:, 0], images[:, 2])


def test_the_held_out_split_is_by_class_and_the_same_for_all_seeds() -> None:
    first, second, other = (ready(Digits(seed=0)), ready(Digits(seed=1)), ready(Digits(split_seed=1)))
    held_out = first.datasets["val"].indices
    assert torch.equal(held_out, second.datasets["val"].indices)
    assert not torch.equal(held_out, other.datasets["val"].indices)
    assert not set(held_out.tolist()) & set(first.datasets["train"].indices.tolist())
    counts = torch.bincount(first.datasets["val"].labels)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(
    ("kwargs", "train", "val"),
    [({"val_split": 200}, 1237, 200), ({"val_split": 0.5}, 719, 718), ({"max_train_samples": 100}, 100, 144)],
)
def test_splits_by_share_and_by_number(kwargs: dict, train: int, val: int) -> None:
    data = ready(Digits(batch_size=10, **kwargs))
    assert (len(data.datasets["train"]), len(data.datasets["val"])) == (train, val)
    assert torch.bincount(data.datasets["train"].labels).min() >= train // 11


def test_no_validation_images_where_none_are_held_out() -> None:
    data = ready(Digits(val_split=0))
    assert {*data.datasets} == {"train"}
    assert data.val_dataloader() == []
    assert not data.has_validation
    assert "without augmentation" in data.evaluation_set
    with pytest.raises(ConfigError, match=r"val_split: 0 .* validate needs"):
        Digits(val_split=0).setup("validate")


def test_without_validation_a_network_is_evaluated_on_training_images_of_all_classes(folder: Path) -> None:
    data = ready(ImageFolder(path=str(folder), val_split=0, batch_size=4))  # its files are in order of class
    data.max_evaluation_images = 12
    (batch,) = data.evaluation_loader()
    assert len(batch.labels) == 12
    assert 3 <= batch.labels.sum() <= 9
    assert data.evaluation_set.startswith("12 training images")
    assert torch.equal(batch.images, data.datasets["train"].take(batch.indices).images)


CPU = SimpleNamespace(root_device=torch.device("cpu"))


def epoch(data: ImageData, number: int, rank: int = 0, world: int = 1) -> list[Batch]:
    """The batches of an epoch as the network sees them."""
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, training=True, num_devices=1, strategy=CPU)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def by_index(batches: list[Batch]) -> dict[int, torch.Tensor]:
    return {int(i): image for batch in batches for i, image in zip(batch.indices, batch.images, strict=True)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, noise = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 3)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number:02}.png")
    return root


def test_an_epochs_images_do_not_depend_on_batch_size_workers_ranks_or_memory(folder: Path) -> None:
    def images(**kwargs: object) -> ImageFolder:
        return ready(ImageFolder(path=str(folder), val_split=4, **{"batch_size": 4, **kwargs}))

    expected = by_index(epoch(images(), 3))
    assert len(expected) == 20
    others = [epoch(images(batch_size=5), 3), epoch(images(memory_limit=0), 3)]
    others += [epoch(images(memory_limit=0, num_workers=workers), 3) for workers in (1, 3)]
    others += [[b for rank in range(n) for b in epoch(images(batch_size=2), 3, rank, n)] for n in (2, 3)]
    for other in others:
        again = by_index(other)
        assert len(again) >= 18  # three ranks have 6 each
        assert all(torch.equal(image, expected[index]) for index, image in again.items())
    changed = by_index(epoch(images(), 4))
    assert sum(torch.equal(changed[index], image) for index, image in expected.items()) < 5
    orders = [[int(i) for batch in epoch(images(), number) for i in batch.indices] for number in range(3)]
    assert all(a != b for a, b in pairwise(orders))


def test_evaluation_sees_each_image_once_and_unchanged() -> None:
    data = ready(Digits(eval_batch_size=100), "test")
    seen = []
    for rank in range(3):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=3, training=False, num_devices=1)
        seen += [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]
    images = torch.cat([batch.images for batch in seen])[torch.cat([batch.indices for batch in seen]).argsort()]
    assert torch.equal(images, data.datasets["test"].take(torch.arange(360)).images)


@pytest.mark.parametrize("size", [10, 11, 12])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_of_the_ranks(size: int, world: int) -> None:
    shuffled = [[*EpochSampler(size, seed=0, shuffle=True, rank=r, world=world)] for r in range(world)]
    assert {len(share) for share in shuffled} == {size // world}
    assert len({row for share in shuffled for _, row, _ in share}) == size // world * world
    ordered = [EpochSampler(size, seed=0, shuffle=False, rank=r, world=world) for r in range(world)]
    assert sorted(row for share in ordered for _, row, _ in share) == [*range(size)]
    assert [len(share) for share in ordered] == [len([*share]) for share in ordered]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"batch_size": 0}, "data.batch_size: 0"),
        ({"eval_batch_size": -1}, "data.eval_batch_size: -1"),
        ({"val_split": -0.1}, "data.val_split: -0.1"),
        ({"val_split": 5}, "data.val_split: 5 means 5 of 1437"),
        ({"max_train_samples": 0}, "data.max_train_samples: 0"),
        ({"max_train_samples": 99999}, "data.max_train_samples: 99999"),
        ({"batch_size": 1294}, "data.batch_size: 1294 is more than the 1293"),
    ],
)
def test_refusals(kwargs: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ready(Digits(**kwargs))


def test_a_global_batch_is_shared_among_the_devices() -> None:
    data = Digits(global_batch_size=96, batch_size=7)
    assert data.batch_size == 96
    for world, each in ((1, 96), (2, 48), (3, 32)):
        data.trainer = SimpleNamespace(world_size=world)
        assert (data.world, data.batch_size) == (world, each)
    data.trainer = SimpleNamespace(world_size=5)
    with pytest.raises(ConfigError, match=r"global_batch_size: 96 images .* evenly among 5 devices; nearest: 95, 100"):
        _ = data.batch_size
    data.batch_size = 8
    assert data.batch_size == 8
    with pytest.raises(ConfigError, match=r"data.global_batch_size: 0 is not positive"):
        Digits(global_batch_size=0)


def test_a_devices_share_must_be_whole_anchors() -> None:
    data = Digits(global_batch_size=32, neighbors=Neighbors(path="table.safetensors", count=15, candidates=31))
    data.trainer = SimpleNamespace(world_size=4)
    with pytest.raises(ConfigError, match="8 images on each of 4 devices cannot be divided into anchors"):
        data._check_batch_size(1000)
