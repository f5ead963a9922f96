"""STKD: golden values of the inferred default, equality with KD if nothing is mixed, and all options."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.factories import shared_teacher, trainer
from helpers.golden import student, teacher
from torch import Tensor

from kd_lightning.batch import Batch
from kd_lightning.data import Digits
from kd_lightning.errors import ConfigError
from kd_lightning.functional import kd_loss, target_divergence
from kd_lightning.methods import KD, STKD
from kd_lightning.methods import stkd as module
from kd_lightning.methods.stkd import Virtual, mix, virtual_samples
from kd_lightning.mixing import Mixing
from kd_lightning.models import Network
from kd_lightning.randomness import sample_keys

KEYS = sample_keys(0, 3, torch.arange(24))


def batch(count: int = 12) -> Batch:
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(count) % 10, torch.arange(count), KEYS[:count])


def made(kind: type = STKD, **kwargs: object) -> STKD:
    torch.manual_seed(0)
    method = kind(
        teacher=shared_teacher(),
        student=Network("cifar_resnet8", num_classes=10).eval(),
        **kwargs,
    )
    method.log = lambda *args, **kwargs: None
    return method


def test_golden_values() -> None:
    theirs, ours = 3 * teacher(4, 5), 2 * student(4, 5)
    virtual = Virtual(torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]]), torch.tensor([0.3, 0.7]).expand(4, 2).double())
    labels = torch.arange(4)
    ce = made()._label_loss(ours, labels, virtual)
    assert ce.item() == pytest.approx(1.7293637586335802, abs=1e-6)
    kd = kd_loss(ours, theirs, temperature=4)
    assert kd.item() == pytest.approx(1.4044854286749928, abs=1e-12)
    assert (0.1 * ce + 0.9 * kd).item() == pytest.approx(1.4369732616708515, abs=1e-6)


@pytest.mark.parametrize("ce_weight", [0.1, 0.0])
def test_where_nothing_is_mixed_it_is_kd_bit_for_bit(monkeypatch: pytest.MonkeyPatch, ce_weight: float) -> None:
    monkeypatch.setattr(module, "mix_lambda", lambda keys, alpha, per: torch.ones(len(keys)))
    ours, theirs = (
        made(ce_weight=ce_weight).training_terms(batch()),
        made(KD, ce_weight=ce_weight).training_terms(batch()),
    )
    assert {*ours} == {*theirs} == ({"ce", "kd"} if ce_weight else {"kd"})
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("per", ["batch", "sample"])
@pytest.mark.parametrize("images", [2, 3, 4])
def test_weights_and_partners_come_from_the_keys(per: str, images: int) -> None:
    virtual = virtual_samples(KEYS, images=images, alpha=1.0, per=per)
    assert virtual.rows.shape == virtual.weights.shape == (24, images)
    assert torch.equal(virtual.rows[:, 0], torch.arange(24))
    columns = virtual.rows.unbind(1)
    for column in columns:
        assert torch.equal(column.sort().values, torch.arange(24))
    assert not any(torch.equal(a, b) for place, a in enumerate(columns) for b in columns[:place])
    torch.testing.assert_close(virtual.weights.sum(1), torch.ones(24))
    assert (len(virtual.weights.unique(dim=0)) == 1) == (per == "batch")
    torch.manual_seed(1)
    again = virtual_samples(KEYS, images=images, alpha=1.0, per=per)
    assert all(map(torch.equal, virtual, again))
    other = virtual_samples(sample_keys(0, 4, torch.arange(24)), images=images, alpha=1.0, per=per)
    assert not torch.equal(virtual.weights, other.weights)
    assert not torch.equal(virtual.rows, other.rows)


def test_a_mixture_is_the_weighted_sum() -> None:
    virtual = virtual_samples(KEYS[:5], images=3, alpha=0.5, per="sample")
    x = torch.rand(5, 2, 3)
    for number, mixed in enumerate(mix(x, virtual)):
        expected = sum(w * x[row] for row, w in zip(virtual.rows[number], virtual.weights[number], strict=True))
        torch.testing.assert_close(mixed, expected)


def reference(method: STKD, given: Batch, images: Tensor) -> dict[str, Tensor]:
    """Return the losses of the default and of all options, computed sample by sample."""
    virtual = virtual_samples(given.keys, images=method.images, alpha=method.alpha, per=method.per)
    recipes = [[*zip(r.tolist(), w.tolist(), strict=True)] for r, w in zip(virtual.rows, virtual.weights, strict=True)]
    mixed = torch.stack([sum(weight * images[row] for row, weight in recipe) for recipe in recipes])
    with torch.no_grad():
        log_p = F.log_softmax(method.student(mixed), 1)
        student_soft = F.log_softmax(method.student(mixed) / 4, 1)
        soft = F.softmax(method.teacher(mixed) / 4, 1)
        if method.targets == "sources":
            each = F.softmax(method.teacher(images) / 4, 1)
            soft = torch.stack([sum(weight * each[row] for row, weight in recipe) for recipe in recipes])
    ce = []
    for logs, recipe in zip(log_p, recipes, strict=True):
        if method.labels == "hard":
            recipe = [(max(recipe, key=lambda part: part[1])[0], 1.0)]
        ce.append(-sum(weight * logs[given.labels[row]] for row, weight in recipe))
    kl = (soft * (soft.log() - student_soft)).sum(1).mean() * 16
    return {"ce": 0.1 * torch.stack(ce).mean(), "kd": 0.9 * kl}


@pytest.mark.parametrize("images", [2, 3])
@pytest.mark.parametrize("labels", ["mixed", "hard"])
@pytest.mark.parametrize("targets", ["mixed", "sources"])
@pytest.mark.parametrize("per", ["batch", "sample"])
def test_every_form_against_a_reference(labels: str, targets: str, per: str, images: int) -> None:
    method = made(labels=labels, targets=targets, per=per, images=images)
    losses = method.training_terms(batch())
    expected = reference(method, batch(), batch().images / 255)
    for name in ("ce", "kd"):
        assert losses[name].item() == pytest.approx(expected[name].item(), rel=1e-4)


def test_plain_images_as_well() -> None:
    losses, kd = made(plain=True).training_terms(batch()), made(KD).training_terms(batch())
    assert {*losses} == {"ce", "kd", "plain_ce", "plain_kd"}
    for name in ("ce", "kd"):
        torch.testing.assert_close(losses[f"plain_{name}"], kd[name])


def test_the_divergence_is_kds_for_soft_targets() -> None:
    ours, theirs = student(6, 5), teacher(6, 5)
    target = F.softmax(theirs / 4, 1)
    torch.testing.assert_close(target_divergence(ours, target, temperature=4), kd_loss(ours, theirs, temperature=4))


@pytest.mark.e2e
def test_it_learns_without_labels(tmp_path: Path) -> None:
    method = made(ce_weight=0, kd_weight=1)
    del method.log
    fit = trainer(tmp_path, max_epochs=5)
    fit.fit(method, Digits(batch_size=64))
    (metrics,) = fit.test(method, Digits(batch_size=64), verbose=False)
    assert metrics["test/acc"] > 0.6


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"data\.mixing: STKD mixes"):
        made().check_data(Digits(mixing=Mixing(mixup=1.0)))
    for kwargs, words in (
        ({"alpha": 0}, "alpha: 0"),
        ({"temperature": -1}, "temperature: -1"),
        ({"images": 1}, "images: 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            made(**kwargs)


def test_a_rank_mixes_only_its_own_samples() -> None:
    """Partners come from the batches of all devices; each device runs the networks on its rows."""
    method, local = made(), batch()
    method.all_gather = lambda *tensors: tuple(torch.cat([tensor, tensor]) for tensor in tensors)
    method.local_rows = lambda rows: rows[: len(rows) // 2]
    assert len(method.inputs(local).student[0]) == len(local.images)
