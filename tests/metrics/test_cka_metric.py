"""LinearCKA against the U-statistic over all quadruples of images, its invariances, and its bias."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_lightning.errors import ConfigError
from kd_lightning.metrics import LinearCKA, linear_cka
from kd_lightning.metrics.cka import _centred, _hsic


def pair(images: int, ours: int = 5, theirs: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((images, ours), dtype=torch.float64, generator=generator)
    y = x @ torch.randn((ours, theirs), dtype=torch.float64, generator=generator)
    return x + 3, y + torch.randn(y.shape, dtype=torch.float64, generator=generator)


def quadruples(x: Tensor, y: Tensor) -> float:
    """Song et al. 2012, the unbiased estimate by its definition: the mean over four different images."""
    k, m = ((rows @ rows.T).tolist() for rows in (x, y))
    terms = [k[i][j] * (m[i][j] + m[q][r] - 2 * m[i][q]) for i, j, q, r in permutations(range(len(x)), 4)]
    return sum(terms) / len(terms)


def biased(x: Tensor, y: Tensor) -> float:
    x, y = (rows - rows.mean(dim=0) for rows in (x, y))
    return ((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())).item()


@pytest.mark.parametrize(("images", "widths"), [(4, (5, 3)), (7, (5, 3)), (7, (9, 40)), (9, (2, 1))])
def test_the_unbiased_estimate_over_all_quadruples(images: int, widths: tuple[int, int]) -> None:
    """Both ways to the trace: more images than features, and fewer."""
    x, y = pair(images, *widths)
    assert _hsic(_centred(x), _centred(y)).item() == pytest.approx(quadruples(x, y), rel=1e-10, abs=1e-10)
    expected = quadruples(x, y) / math.sqrt(quadruples(x, x) * quadruples(y, y))
    assert linear_cka(x, y).item() == pytest.approx(expected, abs=1e-10)


def test_minibatches_are_averaged_before_the_ratio() -> None:
    batches = [pair(6, seed=seed) for seed in range(3)] + [pair(3, seed=3)]
    metric = LinearCKA()
    for batch in batches:
        metric.update(*batch)
    both, ours, theirs = np.sum(
        [[quadruples(x, y), quadruples(x, x), quadruples(y, y)] for x, y in batches[:3]], axis=0
    )
    assert metric.compute().item() == pytest.approx(both / math.sqrt(ours * theirs), abs=1e-10)
    assert metric.skipped == 3


def test_one_for_the_same_space_turned_scaled_and_shifted() -> None:
    x, _ = pair(60, 8)
    turned = -7e3 * x @ torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0] + 40
    assert linear_cka(x, x).item() == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, turned).item() == pytest.approx(1, abs=1e-10)
    stretched = x * torch.tensor([100.0] + [1.0] * 7)  # no isotropic scale
    assert linear_cka(x, stretched) < 0.9
    x, y = pair(60, 8, 6)
    turned = x @ torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    assert linear_cka(3 * turned - 1, y).item() == pytest.approx(linear_cka(x, y).item(), abs=1e-10)


def test_about_zero_for_independent_embeddings_where_the_biased_one_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    metric, others = LinearCKA(), []
    for _ in range(20):
        x, y = torch.randn((32, 64), generator=generator), torch.randn((32, 48), generator=generator)
        metric.update(x, y)
        others.append(biased(x, y))
    assert abs(metric.compute()) < 0.02
    assert np.mean(others) > 0.5


def test_extremes() -> None:
    x, y = pair(40)
    exact = linear_cka(x, y).item()
    for dtype in (torch.bfloat16, torch.float16):
        found = linear_cka(x.to(dtype), y.to(dtype))
        assert found.dtype == torch.float64
        assert found.item() == pytest.approx(exact, abs=0.01)
    assert linear_cka(x * 1e4, y * 1e-4).item() == pytest.approx(exact, abs=1e-10)
    assert linear_cka(x + 1e5, y - 1e6).item() == pytest.approx(exact, abs=1e-8)
    maps = linear_cka(x[:, :4].reshape(40, 1, 2, 2), y)
    assert maps.item() == pytest.approx(linear_cka(x[:, :4], y).item(), abs=1e-12)
    one_other = torch.zeros(40, 5)
    one_other[7] = 0.3
    for given in ((x, torch.full((40, 3), 0.1)), (one_other, y), (x[:3], y[:3]), (x[:0], y[:0]), (x * math.nan, y)):
        assert linear_cka(*given).isnan()
        metric = LinearCKA()
        metric.update(*given)
        assert metric.compute().isnan()
    with pytest.raises(ConfigError, match=r"embeddings: the shapes are \(40, 5\) and \(39, 3\)"):
        linear_cka(x, y[1:])
