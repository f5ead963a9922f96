"""NeighborOverlap against scikit-learn's neighbours."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from kd_lightning.metrics import NeighborOverlap


def test_scikit_learns_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn((80, 6), generator=generator)
    theirs = ours[:, :4] + 0.5 * torch.randn((80, 4), generator=generator)
    found = [
        NearestNeighbors(n_neighbors=5, metric="cosine").fit(x).kneighbors(return_distance=False)
        for x in (ours, theirs)
    ]
    expected = sum(len({*a} & {*b}) for a, b in zip(*found, strict=True)) / 400
    metric = NeighborOverlap(k=5)
    for start in range(0, 80, 30):
        metric.update(ours[start : start + 30], theirs[start : start + 30])
    assert metric.compute().item() == pytest.approx(expected)
    assert 0.2 < expected < 0.9


def test_one_for_the_same_space_and_chance_for_another() -> None:
    vectors = torch.randn((400, 8), generator=torch.Generator().manual_seed(0))
    turned = 3 * vectors @ torch.linalg.qr(torch.randn(8, 8))[0]
    metric = NeighborOverlap()
    metric.update(vectors, turned)
    assert metric.compute() == pytest.approx(1, abs=0.01)
    metric.reset()
    metric.update(vectors, vectors.flip(0))
    assert metric.compute() == pytest.approx(10 / 399, abs=0.02)


def test_few_images_and_no_more_than_are_kept() -> None:
    metric = NeighborOverlap(max_images=7)
    for _ in range(3):
        metric.update(torch.randn(4, 2), torch.randn(4, 3))
    assert sum(map(len, metric.student)) == 7
    metric.reset()
    metric.update(torch.randn(1, 2), torch.randn(1, 3))
    assert metric.compute() == 0
