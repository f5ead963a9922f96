"""SimilarityDistance: SP's own loss, and how minibatches of one size are made of batches of any."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.methods.sp import sp_loss
from kd_lightning.metrics import SimilarityDistance, similarity_distance


def pair(images: int = 70) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((images, 6), generator=generator), torch.randn((images, 9), generator=generator)


def loops(ours: Tensor, theirs: Tensor, size: int) -> float:
    """The paper's equations, row by row."""

    def gram(rows: np.ndarray) -> np.ndarray:
        return np.array(
            [row / math.sqrt(sum(row**2)) for row in ([a @ b for b in rows] for a in rows) for row in [np.array(row)]]
        )

    values = []
    for start in range(0, len(ours) - size + 1, size):
        mine, other = (gram(x[start : start + size].double().numpy()) for x in (ours, theirs))
        values.append(((mine - other) ** 2).sum() / size**2)
    return float(np.mean(values))


@pytest.mark.parametrize("sizes", [(70,), (16, 16, 16, 16, 6), (1, 3, 40, 26)])
def test_the_mean_over_minibatches_whatever_the_batches(sizes: tuple[int, ...]) -> None:
    ours, theirs = pair()
    expected = loops(ours, theirs, 16)  # a rest of 6 is left out
    metric = SimilarityDistance(batch_size=16)
    for a, b in zip(ours.split(sizes), theirs.split(sizes), strict=True):
        metric.update(a, b)
    assert metric.compute().item() == pytest.approx(expected, rel=1e-5)
    assert sum(map(len, metric.student)) < 16
    assert similarity_distance(ours, theirs, batch_size=16).item() == pytest.approx(expected, rel=1e-5)
    by_method = torch.stack([sp_loss(ours[n : n + 16], theirs[n : n + 16]) for n in (0, 16, 32, 48)]).mean()
    assert metric.compute().item() == pytest.approx(by_method.item(), rel=1e-6)


def test_fewer_than_one_minibatch_are_one() -> None:
    ours, theirs = pair(9)
    assert similarity_distance(ours, theirs).item() == pytest.approx(loops(ours, theirs, 9), rel=1e-5)
    for few in (0, 1):
        assert similarity_distance(ours[:few], theirs[:few]).isnan()
    assert SimilarityDistance().compute().isnan()


def test_extremes() -> None:
    ours, theirs = (x.double() for x in pair())
    exact = similarity_distance(ours, theirs, batch_size=16).item()
    assert exact == pytest.approx(loops(ours, theirs, 16), rel=1e-12)
    for dtype in (torch.bfloat16, torch.float16):
        found = similarity_distance(ours.to(dtype), theirs.to(dtype), batch_size=16).item()
        assert found == pytest.approx(exact, rel=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        inside = similarity_distance(ours.float(), theirs.float(), batch_size=16).item()
    assert inside == pytest.approx(exact, rel=1e-5)
    assert similarity_distance(ours * 1e4, theirs * 1e-4, batch_size=16).item() == pytest.approx(exact, rel=1e-6)
    assert similarity_distance(ours, ours * 3, batch_size=16) < 1e-10
    for constant in (torch.zeros(70, 4), torch.full((70, 4), 0.1)):
        assert similarity_distance(ours, constant).isfinite()
    assert similarity_distance(ours * math.nan, theirs).isnan()
    with pytest.raises(ConfigError, match="batch_size: 1 is below 2"):
        SimilarityDistance(batch_size=1)
    with pytest.raises(ConfigError, match="embeddings"):
        similarity_distance(ours, theirs[1:])
