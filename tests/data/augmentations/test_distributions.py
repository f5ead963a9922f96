"""What augmentations draw, over many keys, against torchvision's draws; and what all of them promise."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from kd_lightning import data
from kd_lightning.data import Augmentation, RandomErasing, RandomResizedCrop
from kd_lightning.randomness import sample_keys

COUNT = 100_000
KEYS = sample_keys(4, 2, torch.arange(COUNT))
ONES = torch.ones((COUNT, 1, 1, 1))
SMALL = torch.randint(0, 256, (40, 3, 12, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CROPS = [(224, 224, {}), (375, 500, {}), (32, 32, {"scale": (0.2, 1.0)}), (600, 60, {}), (50, 400, {})]
CROPS += [(40, 40, {"scale": (0.98, 1.0), "ratio": (0.5, 2.0)}), (30, 50, {"scale": (0.9, 1.0), "ratio": (3.0, 4.0)})]


def uniform(counts: Tensor, choices: int) -> bool:
    return len(counts) == choices and stats.chisquare(counts.numpy()).pvalue > 1e-3


def happens(chosen: Tensor, probability: float) -> bool:
    return stats.binomtest(int(chosen.sum()), chosen.numel(), probability).pvalue > 1e-3


def test_crops_flips_and_cutouts() -> None:
    images = torch.zeros((COUNT, 1, 7, 7), dtype=torch.uint8)
    images[:, :, 3, 3] = 1  # is not within the 2 pixels that are mirrored
    for mode in ("zero", "reflect"):
        places = data.RandomCrop(2, mode)(images, KEYS).sum(dim=0, dtype=torch.int64)[0]
        assert uniform(places[1:-1, 1:-1].flatten(), 25)
        assert places[1:-1, 1:-1].sum() == places.sum() == COUNT
    for probability, width in ((0.5, 2), (0.3, 8), (0.9, 5)):
        images = torch.arange(width, dtype=torch.uint8).expand(COUNT, 1, 1, width).clone()
        assert happens(data.HorizontalFlip(probability)(images, KEYS)[..., 0] == width - 1, probability)
    height, width = (torch.arange(n).add(3).clamp(max=n) - torch.arange(n).sub(2).clamp(min=0) for n in (6, 8))
    areas, ways = torch.outer(height, width).unique(return_counts=True)
    cut = data.Cutout(5)(torch.ones((COUNT, 1, 6, 8), dtype=torch.uint8), KEYS)
    found = torch.bincount((1 - cut).flatten(1).sum(dim=1))[areas]
    assert stats.chisquare(found.numpy(), ways.double().numpy() / 48 * COUNT).pvalue > 1e-3


def test_flips_of_images_whose_channels_lie_last() -> None:
    flipped = data.HorizontalFlip(1.0)(SMALL.to(memory_format=torch.channels_last), KEYS[:40])
    assert torch.equal(flipped, SMALL.flip(-1))


BOXES = [(RandomResizedCrop(**some), v2.RandomResizedCrop(1, **some), height, width) for height, width, some in CROPS]
for scale, height, width in (((0.02, 1 / 3), 32, 32), ((0.3, 0.9), 30, 50), ((1.0, 1.0), 8, 8)):
    BOXES.append((RandomErasing(scale=scale), v2.RandomErasing(scale=scale, ratio=(0.3, 1 / 0.3)), height, width))


@pytest.mark.parametrize(("ours", "reference", "height", "width"), BOXES)
def test_boxes_are_torchvisions(ours: Augmentation, reference: v2.Transform, height: int, width: int) -> None:
    torch.manual_seed(0)
    image = torch.empty((1, height, width))
    y, x, tall, wide = np.array([[*reference.make_params([image]).values()][:4] for _ in range(10_000)]).T
    boxes = ours.boxes(KEYS, torch.tensor(height), torch.tensor(width)).double()
    assert torch.equal(boxes, boxes.round().clamp(min=0).minimum(torch.tensor([width, height, width, height])))
    boxes[boxes[:, 0] == boxes[:, 2]] = torch.tensor([0.0, 0, width, height]).double()  # is torchvision's for no box
    x0, y0, x1, y1 = boxes.unbind(1)
    pairs = [((x1 - x0) * (y1 - y0), tall * wide), ((x1 - x0) / (y1 - y0), wide / tall), (x0, x), (y0, y)]
    assert all(stats.ks_2samp(one.numpy(), theirs).pvalue > 1e-3 for one, theirs in pairs)


def test_jitter_blur_and_gray(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [[], [], [], []]

    def change(images: Tensor, factor: Tensor, number: int) -> Tensor:
        seen[number].append(factor)
        return images * 4 + number

    for number, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        monkeypatch.setattr(data.augmentations.color, name, partial(change, number=number))
    result = data.ColorJitter(0.4, 1.5, 0.2, 0.1, probability=0.8)(ONES.clone(), KEYS).flatten().long()
    assert happens(result > 1, 0.8)
    assert uniform(result[result > 1].unique(return_counts=True)[1], 24)
    assert {"".join(sorted(np.base_repr(code, 4))) for code in {*result.tolist()} - {1}} == {"01123"}
    for factors, low, high in zip(seen, (0.6, 0.0, 0.8, -0.1), (1.4, 2.5, 1.2, 0.1), strict=True):
        assert stats.kstest(torch.cat(factors).double().numpy(), "uniform", (low, high - low)).pvalue > 1e-3
    monkeypatch.setattr(data.augmentations.color, "blur", lambda images, sigma, _: images + sigma[:, None, None, None])
    sigma = data.GaussianBlur((0.1, 2.0))(ONES.clone(), KEYS).flatten().double() - 1
    assert happens(sigma > 0, 0.5)
    assert stats.kstest(sigma[sigma > 0].numpy(), "uniform", (0.1, 1.9)).pvalue > 1e-3
    monkeypatch.setattr(data.augmentations.color, "gray", lambda images: images + 1)
    assert happens(data.RandomGrayscale(0.2)(ONES.clone(), KEYS) > 1, 0.2)


@pytest.mark.parametrize("policy", [data.RandAugment(), data.TrivialAugment(), data.TimmRandAugment()])
def test_operations_and_signs_are_drawn_with_equal_chances(policy: Augmentation) -> None:
    count, amounts = len(policy.names), []

    def change(images: Tensor, amount: Tensor, place: int) -> Tensor:
        amounts.append(amount)
        return images * count + place

    policy.names = tuple(str(place) for place in range(count))  # none whose amount has a range of its own
    policy.operations = {name: partial(change, place=int(name)) for name in policy.names}
    codes = policy(ONES.clone(), KEYS).flatten().long() - count**policy.rounds
    assert happens(codes >= 0, policy.probability**policy.rounds)
    assert uniform(torch.bincount(codes[codes >= 0]), count**policy.rounds)
    moved = torch.cat(amounts).double() - 1
    assert happens(moved[moved != 0] > 0, 0.5)
    if isinstance(policy, data.TrivialAugment):
        assert uniform(torch.bincount((moved.abs() / 0.99 * 30).round().long()), 31)


class Elsewhere(Tensor):  # on the CPU, but augmented as on a GPU
    device = property(lambda self: type("Device", (str,), {"type": "another"})("cpu"))


KINDS = [kind for kind in vars(data).values() if isinstance(kind, type) and issubclass(kind, Augmentation)]
ALL = [kind() for kind in KINDS if kind != Augmentation]
ALL += [data.RandomCrop(2, "reflect"), RandomResizedCrop(9, interpolation="bicubic")]


@pytest.mark.parametrize("augmentation", ALL, ids=lambda one: type(one).__name__)
def test_what_every_augmentation_promises(augmentation: Augmentation) -> None:
    keys = KEYS[:40]
    result, other = augmentation(SMALL.clone(), keys), augmentation(SMALL.clone(), KEYS[-40:])
    assert (result != other).flatten(1).any(dim=1).float().mean() > 0.15
    assert result.shape == SMALL.shape or isinstance(augmentation, RandomResizedCrop)
    from_float = augmentation(SMALL.float() / 255, keys)
    assert 0 <= from_float.min() < from_float.max() <= 1
    assert (result / (255 if result.dtype == torch.uint8 else 1) - from_float).abs().max() <= 1 / 255
    again = [augmentation(SMALL.clone().as_subclass(Elsewhere), keys.as_subclass(Elsewhere)).as_subclass(Tensor)]
    for size in (1, 27):
        parts = zip(SMALL.clone().split(size), keys.split(size), strict=True)
        again.append(torch.cat([augmentation(*part) for part in parts]))
    assert all((once.float() - result.float()).abs().max() <= 1e-6 for once in again)


@pytest.mark.parametrize(
    "augmentation",
    [data.ColorJitter(0, 0, 0, 0), data.HorizontalFlip(0), data.RandomGrayscale(0), data.Cutout(probability=0)]
    + [RandomErasing(0), RandomResizedCrop(scale=(1, 1), ratio=(1, 1))]
    + [data.GaussianBlur(probability=0)],
)
def test_nothing_is_changed_where_nothing_is_to_be(augmentation: Augmentation) -> None:
    square = SMALL[..., :12] / 255
    torch.testing.assert_close(augmentation(square.clone(), KEYS[:40]), square, atol=1e-6, rtol=0)
