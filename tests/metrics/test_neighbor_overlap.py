"""neighbor_overlap: several k in one pass, in pieces, against scikit-learn."""

import math

import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.metrics import cosines, neighbor_overlap

KS = (1, 5, 10, 30)


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn((80, 6), generator=generator)
    return ours, ours[:, :4] + 0.5 * torch.randn((80, 4), generator=generator)


def expected(ours: Tensor, theirs: Tensor, k: int) -> float:
    found = [
        NearestNeighbors(n_neighbors=k, metric="cosine").fit(x.double()).kneighbors(return_distance=False)
        for x in (ours, theirs)
    ]
    return sum(len({*a} & {*b}) for a, b in zip(*found, strict=True)) / (k * len(ours))


@pytest.mark.parametrize("floats", [1, 1000, 1 << 24])
def test_scikit_learns_neighbours_for_every_k(floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosines, "_FLOATS", floats)
    found = neighbor_overlap(*pair(), KS)
    assert found == pytest.approx({k: expected(*pair(), k) for k in KS}, abs=1e-12)
    assert len({*found.values()}) == 4
    assert neighbor_overlap(*pair(), [5])[5] == pytest.approx(found[5])


def test_one_for_the_same_space_and_chance_for_another() -> None:
    vectors = torch.randn((400, 8), generator=torch.Generator().manual_seed(0))
    turned = 3 * vectors @ torch.linalg.qr(torch.randn(8, 8))[0]
    assert neighbor_overlap(vectors, turned, [10])[10] == pytest.approx(1, abs=0.01)
    assert neighbor_overlap(vectors, vectors.flip(0), [10])[10] == pytest.approx(10 / 399, abs=0.02)


def test_no_whole_matrix_is_made() -> None:
    ours = torch.randn(3000, 8)
    largest = 0
    for rows, near in cosines.cosine_rows(ours, ours):
        largest = max(largest, near.numel())
        assert near.shape == (rows.stop - rows.start, 3000)
    assert largest <= 1 << 24
    assert len([*cosines.cosine_rows(torch.randn(10, 2), torch.randn(1 << 22, 2))]) == 3


def test_extremes() -> None:
    ours, theirs = pair()
    exact = neighbor_overlap(ours, theirs, [5])[5]
    for dtype in (torch.bfloat16, torch.float16):
        assert neighbor_overlap(ours.to(dtype), theirs.to(dtype), [5])[5] == pytest.approx(exact, abs=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert neighbor_overlap(ours, theirs, [5])[5] == exact
    assert neighbor_overlap(ours * 1e30, theirs * 1e-30, [5])[5] == pytest.approx(exact, abs=0.01)
    assert neighbor_overlap(ours, theirs, [79, 500]) == {79: 1, 500: 1}
    assert neighbor_overlap(ours[:3], theirs[:3], [1, 2, 3])[2] == 1
    for few in (0, 1):
        assert neighbor_overlap(ours[:few], theirs[:few], KS) == dict.fromkeys(KS, 0)
    assert 0 <= neighbor_overlap(ours, torch.full_like(theirs, 0.1), [5])[5] <= 1
    assert all(map(math.isnan, neighbor_overlap(ours * math.nan, theirs, KS).values()))
    with pytest.raises(ConfigError, match="k: 0"):
        neighbor_overlap(ours, theirs, [0])
    with pytest.raises(ConfigError, match=r"embeddings: the shapes are \(80, 6\) and \(79, 4\)"):
        neighbor_overlap(ours, theirs[1:], [1])
