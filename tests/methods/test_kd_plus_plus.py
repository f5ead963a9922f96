"""KDPlusPlus: golden value, norms and directions, class centers over the training images, resuming, warm-up, errors."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from helpers import golden
from helpers.factories import digits, method, shared_teacher, student, trainer, whole
from helpers.ranks import start_ranks

from kd_lightning.batch import Batch
from kd_lightning.distillation import Combined
from kd_lightning.distillation.class_centers import ClassCenters
from kd_lightning.errors import ConfigError
from kd_lightning.functional import kd_loss
from kd_lightning.methods import SP, KDPlusPlus
from kd_lightning.methods.kd_plus_plus import norm_direction_loss
from kd_lightning.models import Network

CENTERS = golden.teacher(5, 8) + golden.student(5, 8)


def test_golden_value() -> None:
    def loss(x: torch.Tensor) -> torch.Tensor:
        return norm_direction_loss(x, golden.teacher(6, 8), CENTERS, golden.LABELS)

    golden.check(loss, (golden.student(6, 8),), 0.5159693133, 0.18053557)


def test_the_released_centers_are_rounded() -> None:
    """The released code rounds to 4 decimals, which changes the value."""
    given = golden.student(6, 8), golden.teacher(6, 8)
    rounded = norm_direction_loss(*given, (CENTERS * 1e4).round() / 1e4, golden.LABELS)
    assert rounded.item() != pytest.approx(0.5159693133, rel=1e-7)


def test_only_directions_of_the_centers_and_the_larger_norm_count() -> None:
    teacher, labels = golden.teacher(6, 8), golden.LABELS
    ideal = torch.nn.functional.normalize(CENTERS)[labels] * teacher.norm(dim=1, keepdim=True)
    for factor, expected in ((1.0, 0.0), (7.0, 0.0), (0.25, 0.75)):  # longer costs nothing, shorter does
        assert norm_direction_loss(factor * ideal, teacher, 3 * CENTERS, labels).item() == pytest.approx(expected)


def test_the_larger_norm_has_a_gradient() -> None:
    long = (100 * golden.student(6, 8)).requires_grad_()
    norm_direction_loss(long, golden.teacher(6, 8), CENTERS, golden.LABELS).backward()
    assert (long * long.grad).sum(dim=1).abs().max() < 1e-12  # a longer vector does not change the loss


def test_embeddings_of_zeros_are_finite() -> None:
    zeros = torch.zeros(3, 8, requires_grad=True)
    loss = norm_direction_loss(zeros, torch.zeros(3, 8), torch.zeros(5, 8), torch.arange(3))
    loss.backward()
    assert loss == 1
    assert torch.isfinite(zeros.grad).all()


def data(**kwargs: object):
    return digits(max_train_samples=60, batch_size=20, **kwargs)


def expected_centers(given, teacher: Network) -> torch.Tensor:
    batch = given.datasets["train"].take(torch.arange(len(given.datasets["train"])))
    with torch.no_grad():
        embedding = teacher.eval().features(whole(given.datasets["train"]), embedding=True).embedding.double()
    return torch.stack([embedding[batch.labels == k].mean(0) for k in range(10)])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_centers_are_means_over_the_training_images_in_full_precision(tmp_path: Path, precision: str) -> None:
    built, given = method(KDPlusPlus), data(eval_batch_size=7)
    trainer(tmp_path, precision=precision).fit(built, given)
    expected = expected_centers(given, built.teacher)
    torch.testing.assert_close(built.centers().double(), expected, rtol=1e-5, atol=1e-5)
    assert (built.centers().double() - (1e4 * expected).round() / 1e4).abs().max() > 1e-5  # not rounded


def test_half_precision_does_not_round_the_stored_centers() -> None:
    centers = ClassCenters(3, 4)
    before = centers().clone()
    assert torch.equal(centers.to(torch.bfloat16)(), before)
    assert before.dtype == torch.float32


def test_a_resumed_run_keeps_the_centers_unless_the_teacher_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, run = method(KDPlusPlus), trainer(tmp_path)
    run.fit(built, data())
    run.save_checkpoint(tmp_path / "run.ckpt")
    passes = []
    monkeypatch.setattr(type(data()), "in_order", lambda self, images: passes.append(images) or [])
    resumed = method(KDPlusPlus)
    state = torch.load(tmp_path / "run.ckpt")["state_dict"]
    resumed.load_state_dict(state)
    given = data()
    given.setup("fit")
    resumed.centers.compute(resumed.teacher, given)
    assert passes == []
    assert torch.equal(resumed.centers(), built.centers())
    with torch.no_grad():
        next(resumed.teacher.parameters()).mul_(1.5)
    resumed.centers.compute(resumed.teacher, given)
    assert len(passes) == 1
    fewer = digits(max_train_samples=50)
    fewer.setup("fit")
    resumed.centers.compute(resumed.teacher, fewer)
    assert len(passes) == 2


def centers_of_rank(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world)
    torch.manual_seed(rank)
    built, given = method(KDPlusPlus), data(eval_batch_size=7)
    given.setup("fit")
    shared = SimpleNamespace(name=given.name, datasets=given.datasets)
    shared.in_order = lambda images: given.in_order(images, place={"rank": rank, "world": world})
    built.centers.compute(built.teacher, shared)
    torch.save(built.centers(), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.e2e
def test_the_centers_of_all_processes_are_those_of_one(tmp_path: Path) -> None:
    start_ranks(centers_of_rank, (3, tmp_path), 3)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    given = data()
    given.setup("fit")
    expected = expected_centers(given, shared_teacher())
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=1e-5)


def images(count: int = 12) -> Batch:
    rows = torch.arange(count)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(pixels, rows % 10, rows, rows)


def test_the_soft_targets_warm_up_and_the_direction_does_not() -> None:
    built = method(KDPlusPlus, warmup=4, kd_weight=3.0).eval()
    with torch.no_grad():
        pair = [network.features(images().images, logits=True).logits for network in (built.student, built.teacher)]
        full, values = 3 * kd_loss(*pair, temperature=4), []
        for epoch in (1, 2, 4, 10):
            built.epoch.fill_(epoch)
            terms = built.training_terms(images())
            values.append(terms["norm_direction"])
            torch.testing.assert_close(terms["kd"], min(epoch / 4, 1) * full)
    assert len({value.item() for value in values}) == 1


def test_a_part_computes_the_centers_as_well(tmp_path: Path) -> None:
    built = method(Combined, parts=[SP, KDPlusPlus])
    given = data()
    trainer(tmp_path).fit(built, given)
    expected = expected_centers(given, built.teacher)
    torch.testing.assert_close(built.parts["kdplusplus"].centers().double(), expected, rtol=1e-5, atol=1e-5)


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.warmup: 1.5 is neither a number of epochs"):
        method(KDPlusPlus, warmup=1.5)
    with pytest.raises(ConfigError, match=r"data.num_classes: KDPlusPlus reads labels"):
        KDPlusPlus(student=Network("cifar_resnet8", num_classes=0), teacher=shared_teacher(), kd_weight=0.0)
    unlabelled = data()
    unlabelled.labeled = False
    with pytest.raises(ConfigError, match=r"data.labeled: KDPlusPlus reads labels"):
        method(KDPlusPlus, student=student()).check_data(unlabelled)
    with pytest.raises(ConfigError, match="data: the class centers are computed from the training images"):
        method(KDPlusPlus).centers.compute(shared_teacher(), None)
