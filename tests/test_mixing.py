"""Mixup and CutMix: partners, shares and pixels compared with the formulas and with timm's draws."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from timm.data import Mixup
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.errors import ConfigError
from kd_lightning.functional import mixed_cross_entropy
from kd_lightning.mixing import Mixing, cutmix, mix_lambda, mixup, partners
from kd_lightning.randomness import sample_keys

COUNT = 24
KEYS = sample_keys(0, 1, torch.arange(5000))
IMAGES = torch.randint(0, 256, (COUNT, 3, 10, 13), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def a_batch(keys: Tensor = KEYS[:COUNT], images: Tensor = IMAGES) -> Batch:
    rows = torch.arange(len(keys))
    return Batch(images, rows % 10, rows, keys)


@pytest.mark.parametrize("count", [2, 3, 24, 1000])
def test_partners_are_a_permutation_without_fixed_points(count: int) -> None:
    found = partners(KEYS[:count])
    assert torch.equal(found.sort().values, torch.arange(count))
    assert (found != torch.arange(count)).all()
    assert partners(KEYS[:1]).tolist() == [0]


def test_partners_and_mixed_images_do_not_depend_on_the_order_of_the_batch() -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))
    assert torch.equal(order[partners(KEYS[:COUNT][order])], partners(KEYS[:COUNT])[order])
    for per in ("batch", "sample"):
        mixing = Mixing(mixup=0.8, cutmix=1.0, per=per, probability=0.7)
        whole = mixing(a_batch())
        shuffled = mixing(Batch(*(field[order] for field in a_batch()[:4])))
        for name in ("images", "labels", "keys", "partner_labels", "mix_lambda"):
            torch.testing.assert_close(getattr(shuffled, name), getattr(whole, name)[order], atol=1e-6, rtol=0)


@pytest.mark.parametrize("images", [IMAGES, IMAGES.float() / 255])
def test_mixup_is_the_plain_formula(images: Tensor) -> None:
    rows, parts = partners(KEYS[:COUNT]), mix_lambda(KEYS[:COUNT], 1.0)
    parts[:3] = torch.tensor([1.0, 0.0, 0.5])
    before, mixed = images.clone(), mixup(images, rows, parts)
    assert torch.equal(images, before)
    plain, weight = IMAGES.float() / 255, parts[:, None, None, None]
    torch.testing.assert_close(mixed.images, weight * plain + (1 - weight) * plain[rows], atol=1e-6, rtol=0)
    assert torch.equal(mixed.images[:2], torch.stack([plain[0], plain[rows[1]]]))
    assert torch.equal(mixed.mix_lambda, parts)


def test_cutmix_pastes_one_box_of_the_returned_area() -> None:
    images, keys = IMAGES.clone(), KEYS[:COUNT]
    images[:, 0] = torch.arange(COUNT, dtype=torch.uint8)[:, None, None]  # the red value identifies the image
    rows, parts, plain = partners(keys), mix_lambda(keys, 1.0), images.float() / 255
    parts[0] = 1.0
    mixed = cutmix(images, keys, rows, parts)
    assert torch.equal(mixed.images, cutmix(plain, keys, rows, parts).images)
    assert torch.equal(mixed.images[0], plain[0])
    own, other = (mixed.images == source for source in (plain, plain[rows]))
    assert (own.all(dim=1) | other.all(dim=1)).all()
    torch.testing.assert_close(mixed.mix_lambda, own[:, 0].flatten(1).float().mean(dim=1))
    for lost in ~own[1:, 0]:
        height, width = (len(edge.nonzero()) for edge in (lost.any(dim=1), lost.any(dim=0)))
        assert height * width == lost.sum()


def test_cutmix_areas_are_the_papers() -> None:
    """The areas are those of the authors' code. timm 1.0.31 also has odd sides, larger by one row or column."""
    ours = cutmix(torch.zeros((5000, 1, 12, 16)), KEYS, partners(KEYS), mix_lambda(KEYS, 1.0)).mix_lambda
    noise, area = np.random.default_rng(0), 1
    side = np.sqrt(1 - noise.beta(1, 1, 100_000))
    for size in (12, 16):
        half, center = (size * side).astype(int) // 2, noise.integers(0, size, len(side))
        area = area * (np.clip(center + half, 0, size) - np.clip(center - half, 0, size))
    assert stats.ks_2samp(((1 - ours) * 12 * 16).round().numpy(), area).pvalue > 1e-3


def test_shares_have_the_distribution_of_timm() -> None:
    np.random.seed(0)  # timm draws from NumPy's generator
    theirs = [Mixup(mixup_alpha=0.8)._params_per_batch()[0] for _ in range(5000)]
    for per, size, total in (("batch", 1, 1000), ("batch", 2, 2000), ("sample", 5000, 5000)):
        mixing, pixels = Mixing(mixup=0.8, per=per), torch.zeros((size, 3, 1, 1))
        ours = torch.stack([mixing(a_batch(some, pixels)).mix_lambda for some in KEYS[:total].split(size)])
        ours = (ours[:, 0] if per == "batch" else ours[0]).double().numpy()
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
        assert stats.kstest(ours, "beta", (0.8, 0.8)).pvalue > 1e-3


def test_one_share_per_batch_or_per_sample() -> None:
    for mixing in (Mixing(mixup=0.8), Mixing(cutmix=1.0), Mixing(mixup=0.8, cutmix=1.0)):
        seen = [mixing(a_batch(some)).mix_lambda for some in KEYS[: 20 * COUNT].split(COUNT)]
        assert all((parts == parts[0]).all() for parts in seen)
        assert len({float(parts[0]) for parts in seen}) > 10
    assert len(Mixing(mixup=0.8, per="sample")(a_batch()).mix_lambda.unique()) == COUNT


@pytest.mark.parametrize(("per", "count"), [("batch", 1000), ("sample", 4)])
def test_how_often_images_are_mixed_and_cut(per: str, count: int) -> None:
    mixing, mixed, blended = Mixing(mixup=1.0, cutmix=1.0, switch=0.3, probability=0.6, per=per), 0, 0
    for keys in KEYS[: 4 * 1000].chunk(count):
        flat = torch.arange(len(keys)).view(-1, 1, 1, 1).expand(-1, 3, 6, 6) / 1000
        found, rows = mixing(a_batch(keys, flat)), partners(keys)
        untouched = found.mix_lambda == 1
        assert torch.equal(found.images[untouched], flat[untouched])
        is_cut = ((found.images == flat) | (found.images == flat[rows])).flatten(1).all(dim=1)
        mixed, blended = mixed + int((~untouched).sum()), blended + int((~is_cut).sum())
    spread = 4 * 0.5 / (1000 if per == "batch" else 4000) ** 0.5
    assert blended / 4000 == pytest.approx(0.6 * 0.7, abs=spread)
    assert 0.6 * 0.7 < mixed / 4000 < 0.6 + spread  # a small or clipped box can be empty


def test_views_and_labels_do_not_change() -> None:
    mixed = Mixing(mixup=0.2)(batch := a_batch()._replace(views=(IMAGES.flip(-1),)))
    assert mixed.views is batch.views
    assert mixed.labels is batch.labels
    assert torch.equal(mixed.partner_labels, batch.labels[partners(batch.keys)])
    assert torch.equal(Mixing(mixup=0.2, probability=0.0)(batch).images, IMAGES.float() / 255)
    alone = Mixing(mixup=0.2, cutmix=1.0)(a_batch(KEYS[:1], IMAGES[:1]))
    torch.testing.assert_close(alone.images, IMAGES[:1].float() / 255)


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_mixed_cross_entropy_equals_the_one_with_soft_targets(per: str) -> None:
    batch = Mixing(mixup=0.8, cutmix=1.0, per=per)(a_batch())
    logits = torch.randn((COUNT, 10), generator=torch.Generator().manual_seed(1))
    own, partner = (F.one_hot(labels, 10).float() for labels in (batch.labels, batch.partner_labels))
    soft = batch.mix_lambda[:, None] * own + (1 - batch.mix_lambda[:, None]) * partner
    mixed = mixed_cross_entropy(logits, batch.labels, batch.partner_labels, batch.mix_lambda)
    torch.testing.assert_close(mixed, F.cross_entropy(logits, soft))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [({}, "mixup is 0.0 and cutmix is 0.0"), ({"mixup": -0.1, "cutmix": 1.0}, "data.mixing: mixup is -0.1")]
    + [({"mixup": 1.0, "switch": 1.5}, r"data.mixing.switch: 1.5 is not in \[0, 1\]")]
    + [({"mixup": 1.0, "probability": -0.5}, "data.mixing.probability: -0.5")],
)
def test_invalid_values_raise_an_error(kwargs: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Mixing(**kwargs)
