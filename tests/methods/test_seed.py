"""SEED: a numpy reference of the loss, and the queue: order, checkpoint, DDP and gradient."""

import numpy as np
import pytest
import torch
from helpers.factories import digits, method, trainer
from helpers.golden import student, teacher
from scipy.special import log_softmax, softmax

from kd_lightning.batch import Batch
from kd_lightning.callbacks import TeacherAgreement
from kd_lightning.errors import ConfigError
from kd_lightning.methods import SEED
from kd_lightning.methods.seed import seed_loss
from kd_lightning.models import Reads


def test_numpy_loops() -> None:
    ours, theirs = student(6, 5), teacher(6, 5)
    queue = teacher(9, 5).flip(1)
    queue = queue / queue.norm(dim=1, keepdim=True)
    expected = []
    for a, b in zip(ours.numpy(), theirs.numpy(), strict=True):
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
        known = [b, *queue.numpy()]
        target = softmax(np.array([b @ other for other in known]) / 0.05)
        expected.append(-(target * log_softmax(np.array([a @ other for other in known]) / 0.2)).sum())
    found = seed_loss(ours, theirs, queue=queue, student_temperature=0.2, teacher_temperature=0.05)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-12)


def test_a_cold_teacher_makes_it_infonce() -> None:
    ours, theirs = student(6, 5), teacher(6, 5)
    queue = torch.eye(5, dtype=torch.float64)
    found = seed_loss(ours, theirs, queue=queue, student_temperature=0.2, teacher_temperature=1e-4)
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (ours, theirs))
    logits = torch.cat([(a * b).sum(1, keepdim=True), a @ queue.T], dim=1) / 0.2
    own = torch.nn.functional.cross_entropy(logits, torch.zeros(6).long())
    assert found.item() == pytest.approx(own.item(), rel=1e-9)


def test_the_head_is_not_linear() -> None:
    head = method(SEED, queue_size=5).head
    assert [(layer.in_features, layer.out_features) for layer in head if hasattr(layer, "in_features")] == [
        (16, 16),
        (16, 64),
    ]
    x = torch.randn(4, 16)
    assert not torch.allclose(head(x) + head(-x), 2 * head(torch.zeros_like(x)))


def test_a_teacher_that_overflows_once_leaves_the_queue_finite() -> None:
    built = method(SEED, queue_size=5)
    built.enqueue(torch.full((2, 64), torch.nan))
    assert built.queue.isfinite().all()
    assert built.queue[:2].eq(0).all()
    assert built.queue[2:].norm(dim=1).allclose(torch.ones(3))


def batches(count: int, size: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(size)
    pixels = torch.randint(0, 256, (count, size, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return [Batch(images, rows % 10, rows, rows) for images in pixels]


def test_the_queue_holds_the_last_embeddings_the_oldest_first_to_go() -> None:
    built = method(SEED, queue_size=10).eval()
    seen = []
    for batch in batches(4, 4):
        before = built.queue.clone()
        loss = built.training_terms(batch)["seed"]
        loss.backward()
        embedding = built.teacher_features(batch.images, Reads(embedding=True)).embedding
        ours = built.head(built.student.features(batch.images, embedding=True).embedding)
        settings = {"student_temperature": 0.2, "teacher_temperature": 1e-4}
        torch.testing.assert_close(loss, seed_loss(ours, embedding, queue=before, **settings))
        seen.append(embedding / embedding.norm(dim=1, keepdim=True))
    whole = torch.cat(seen)  # of 16 embeddings in a queue of 10, numbers 10 to 15 replaced 0 to 5
    torch.testing.assert_close(built.queue, torch.cat([whole[10:16], whole[6:10]]))
    assert built.place == 6
    assert not built.queue.requires_grad


def test_the_first_queue_is_of_random_unit_vectors_by_the_seed() -> None:
    torch.manual_seed(0)
    first = method(SEED, queue_size=50).queue
    torch.manual_seed(0)
    again = method(SEED, queue_size=50).queue
    assert torch.equal(first, again)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(50))


def test_the_queue_is_in_the_checkpoint_and_ddp_leaves_it_alone(tmp_path: object) -> None:
    built, run = method(SEED, queue_size=60), trainer(tmp_path)
    run.fit(built, digits())
    assert built.place == 100 % 60
    run.save_checkpoint(tmp_path / "a.ckpt")
    kept = torch.load(tmp_path / "a.ckpt", weights_only=False)["state_dict"]
    assert torch.equal(kept["queue"], built.queue)
    assert {"queue", "place"} <= {*built._ddp_params_and_buffers_to_ignore}


@pytest.mark.e2e
def test_it_learns_without_labels(tmp_path: object) -> None:
    built = method(SEED, queue_size=512)
    (before,) = trainer(tmp_path, TeacherAgreement()).validate(built, digits(), verbose=False)
    trainer(tmp_path, max_epochs=8).fit(built, digits(max_train_samples=None))
    (after,) = trainer(tmp_path, TeacherAgreement()).validate(built, digits(), verbose=False)
    assert after["val/neighbors"] > before["val/neighbors"] + 0.02


def test_refusals() -> None:
    for field in ("queue_size", "student_temperature", "teacher_temperature"):
        with pytest.raises(ConfigError, match=f"{field}: 0 is not above 0"):
            method(SEED, **{field: 0})
    with pytest.raises(ConfigError, match="queue_size: 8 is less than the 50"):
        method(SEED, queue_size=8).check_data(digits())
