"""Repeated images, several views, and epochs that go on where they were left."""

from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.data import Digits, ImageData, ImageFolder, RandomCrop, RandomErasing, RandomResizedCrop
from kd_lightning.data.loader import ImageLoader
from kd_lightning.data.samplers import EpochSampler

CPU = SimpleNamespace(root_device=torch.device("cpu"))


def ready(data: ImageData, rank: int = 0, world: int = 1) -> ImageData:
    data.setup("fit")
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, training=True, num_devices=1, strategy=CPU)
    return data


def epoch(data: ImageData, loader: ImageLoader, number: int) -> list[Batch]:
    """The batches of an epoch, or of what is left of it, as the network sees them."""
    loader.sampler.set_epoch(number)
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def joined(batches: list[Batch], field: str) -> Tensor:
    return torch.cat([getattr(batch, field) for batch in batches])


def same(some: list[Batch], others: list[Batch]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(torch.equal(getattr(a, field), getattr(b, field)) for a, b in pairs for field in Batch._fields[:4])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, noise = tmp_path_factory.mktemp("folder"), np.random.default_rng(0)
    for split, name, count in (("train", "cat", 11), ("train", "dog", 11), ("test", "cat", 1), ("test", "dog", 1)):
        (root / split / name).mkdir(parents=True)
        for number in range(count):
            pixels = noise.integers(0, 256, (12, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / name / f"{number:02}.png")
    return root


def test_each_image_comes_three_times_in_succession_and_augmented_anew() -> None:
    data, plain = ready(Digits(repeats=3, batch_size=30, augmentations=[RandomCrop(3)])), ready(Digits(batch_size=30))
    loader = data.train_dataloader()
    batches = epoch(data, loader, 2)
    assert len(batches) == len(loader) == len(plain.train_dataloader()) == 1293 // 30
    unrepeated = epoch(plain, plain.train_dataloader(), 2)
    for copy in range(3):
        assert torch.equal(joined(batches, "indices")[copy::3], joined(unrepeated, "indices")[:430])
    assert torch.equal(joined(batches, "keys")[::3], joined(unrepeated, "keys")[:430])
    assert len(joined(batches, "keys").unique()) == 3 * 430
    for one, two in combinations(joined(batches, "images").view(430, 3, 3, 8, 8).unbind(1), 2):
        assert (one != two).flatten(1).any(dim=1).float().mean() > 0.9
    assert same(epoch(data, loader, 2), batches)


@pytest.mark.parametrize(("size", "world", "repeats"), [(100, 2, 3), (100, 3, 3), (101, 4, 2), (10, 2, 30), (7, 1, 1)])
def test_ranks_get_different_copies(size: int, world: int, repeats: int) -> None:
    samplers = [
        EpochSampler(size, seed=1, shuffle=True, rank=rank, world=world, repeats=repeats) for rank in range(world)
    ]
    shares = [[*sampler] for sampler in samplers]
    assert {len(share) for share in shares} | {len(sampler) for sampler in samplers} == {size // world}
    together = [place for places in zip(*shares, strict=True) for place in places]
    alone = [*EpochSampler(size, seed=1, shuffle=True, repeats=repeats)]
    assert together == alone[: len(together)]
    assert len({*together}) == len(together)
    assert [copy for _, _, copy in together] == [place % repeats for place in range(len(together))]


def made(folder: Path, kind: str, **kwargs: int) -> ImageData:
    if kind == "memory":
        return ready(Digits(**{"batch_size": 100, "augmentations": [RandomCrop(3)], **kwargs}))
    kwargs |= {"val_split": 0, "batch_size": 4, "memory_limit": 0, "num_workers": 2 * (kind == "workers")}
    steps = [RandomResizedCrop(6), RandomCrop(3)] if kind == "cut" else None
    return ready(ImageFolder(path=str(folder), size=9, augmentations=steps, **kwargs))


@pytest.mark.parametrize("kind", ["memory", "no workers", "workers", "cut"])
def test_a_loader_goes_on_in_the_middle_of_an_epoch(folder: Path, kind: str) -> None:
    data = made(folder, kind, repeats=2)
    whole = [epoch(data, data.train_dataloader(), number) for number in (4, 5)]
    count = len(whole[0])
    assert count == (12 if kind == "memory" else 5)
    assert not same(*whole)
    for done in (0, 2, count - 1, count):
        loader = data.train_dataloader()
        loader.load_state_dict({"epoch": 4, "batches": done})
        assert same(epoch(data, loader, 4), whole[0][done:])
        assert loader.state_dict() == {"epoch": 4, "batches": count}
        assert same(epoch(data, loader, 5), whole[1])


def test_a_loaders_state_counts_what_it_has_given(folder: Path) -> None:
    loader = made(folder, "workers").train_dataloader()
    assert (loader.state_dict(), loader.num_workers) == ({"epoch": 0, "batches": 0}, 2)
    for start in (0, 3):
        loader.load_state_dict({"epoch": 0, "batches": start})
        assert [loader.state_dict()["batches"] for _ in loader] == [*range(start + 1, 6)]


def test_a_state_that_was_loaded_can_be_saved_before_the_first_batch() -> None:
    loader = made(Path(), "memory").train_dataloader()
    loader.load_state_dict({"epoch": 0, "batches": 3})
    assert loader.state_dict() == {"epoch": 0, "batches": 3}


def test_the_epoch_after_one_that_was_cut_short_is_whole() -> None:
    data = made(Path(), "memory")
    loader, again = data.train_dataloader(), data.train_dataloader()
    loader.sampler.set_epoch(4)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    again.load_state_dict(loader.state_dict())
    assert len(epoch(data, again, 5)) == len(loader)


@pytest.mark.parametrize("kind", ["memory", "no workers", "cut"])
def test_three_views(folder: Path, kind: str) -> None:
    modules = [made(folder, kind, views=views) for views in (1, 2, 3)]
    for one, two, three in zip(*(epoch(data, data.train_dataloader(), 3) for data in modules), strict=True):
        assert [len(batch.views) for batch in (one, two, three)] == [0, 1, 2]
        assert torch.equal(one.images, three.images)
        assert torch.equal(one.keys, three.keys)
        assert torch.equal(two.views[0], three.views[0])
        for first, second in combinations((three.images, *three.views), 2):
            assert first.shape == second.shape
            assert (first != second).flatten(1).any(dim=1).float().mean() > 0.7


def test_view_augmentations_change_all_views_except_the_first(folder: Path) -> None:
    plain, further = (made(folder, "memory", views=3, view_augmentations=more) for more in (None, [RandomErasing(1.0)]))
    for one, other in zip(*(epoch(data, data.train_dataloader(), 3) for data in (plain, further)), strict=True):
        assert torch.equal(one.images, other.images)
        for before, after in zip(one.views, other.views, strict=True):
            kept = (before == (255 * after).round()) if after.is_floating_point() else before == after
            assert 0.3 < kept.float().mean() < 1  # the same crop, with a box that is replaced


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_groups_stay_together_and_no_image_is_lost(world: int) -> None:
    samplers = [EpochSampler(23, seed=0, shuffle=False, rank=r, world=world, group=8) for r in range(world)]
    rows = [[row for _, row, _ in sampler] for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [*map(len, rows)]
    groups = [part[start : start + 8] for part in rows for start in range(0, len(part), 8)]
    assert sorted(groups) == [[*range(8)], [*range(8, 16)], [*range(16, 23)]]
