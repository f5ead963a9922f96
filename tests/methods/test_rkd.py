"""RKD: golden values, references with loops over pairs and triplets, its invariances, and bounded memory."""

import numpy as np
import pytest
import torch
from helpers.golden import student, teacher
from torch import Tensor

from kd_lightning import functional
from kd_lightning.methods.rkd import rkd_angle_loss, rkd_distance_loss


def test_golden_values() -> None:
    ours, theirs = student(6, 5), teacher(6, 8)
    assert rkd_distance_loss(ours, theirs).item() == pytest.approx(0.0298855405, abs=1e-9)
    assert rkd_angle_loss(ours, theirs).item() == pytest.approx(0.0304495710, abs=1e-9)
    total = 25 * rkd_distance_loss(ours, theirs) + 50 * rkd_angle_loss(ours, theirs)
    assert total.item() == pytest.approx(2.2696170626, abs=1e-8)


def huber(gap: float) -> float:
    return gap**2 / 2 if abs(gap) < 1 else abs(gap) - 0.5


def test_loops_over_pairs_and_triplets() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn((5, d), dtype=torch.float64, generator=generator) * 3 for d in (4, 7))

    def distances(rows: np.ndarray) -> np.ndarray:
        found = np.array([[np.linalg.norm(a - b) for b in rows] for a in rows])
        return found / found[found > 0].mean()

    def angle(rows: np.ndarray, i: int, j: int, k: int) -> float:
        a, b = rows[i] - rows[j], rows[k] - rows[j]
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return a @ b / lengths if lengths else 0.0

    a, b = ours.numpy(), theirs.numpy()
    pairs = np.mean([huber(gap) for gap in (distances(a) - distances(b)).flatten()])
    span = range(5)
    triplets = np.mean([huber(angle(a, i, j, k) - angle(b, i, j, k)) for i in span for j in span for k in span])
    assert rkd_distance_loss(ours, theirs).item() == pytest.approx(pairs, rel=1e-12)
    assert rkd_angle_loss(ours, theirs).item() == pytest.approx(triplets, rel=1e-12)


def test_moved_turned_and_scaled_features_are_the_same() -> None:
    theirs = teacher(9, 6)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    moved = 4 * theirs @ turn + 3
    assert rkd_distance_loss(moved, theirs) < 1e-20
    assert rkd_angle_loss(moved, theirs) < 1e-20


def test_small_distances_between_far_features_are_kept() -> None:
    """Distances from matrix products would lose them in float32."""
    near = torch.randn((40, 8), generator=torch.Generator().manual_seed(2))
    assert rkd_distance_loss(near + 300, near) < 1e-6


@pytest.mark.parametrize("loss", [rkd_distance_loss, rkd_angle_loss])
def test_two_copies_of_an_image_do_no_harm(loss: object) -> None:
    ours = student(6, 5)[[0, 1, 1, 2, 3, 3]].requires_grad_()
    value = loss(ours, teacher(6, 8))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(ours.grad).all()


def test_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(floats: int) -> tuple[Tensor, Tensor]:
        monkeypatch.setattr(functional, "_FLOATS", floats)
        ours = student(20, 5).requires_grad_()
        value = rkd_angle_loss(ours, teacher(20, 8))
        value.backward()
        return value.detach(), ours.grad

    torch.testing.assert_close(run(1 << 30), run(2000), rtol=1e-12, atol=1e-15)
