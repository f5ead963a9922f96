"""The noises' statistics, and that draws for pixels are independent of each other."""

import numpy as np
import pytest
import torch
from scipy import stats

from kd_lightning.evaluation.corruptions import SEVERITIES, corrupt, noise
from kd_lightning.evaluation.corruptions.base import at_pixels
from kd_lightning.randomness import fold_in, integers, normal, sample_keys, uniform

KEYS = sample_keys(0, 0, torch.arange(64))
DEVIATION = [0.04, 0.06, 0.08, 0.09, 0.10]
PHOTONS = [500, 250, 100, 75, 50]
REPLACED = [0.01, 0.02, 0.03, 0.05, 0.07]


def gray(level: int) -> torch.Tensor:
    return torch.full((64, 3, 32, 32), level, dtype=torch.uint8)


def test_draws_for_pixels_are_those_of_a_double_loop() -> None:
    drawn = at_pixels(uniform, KEYS[:2], (3, 4, 5))
    for n in range(2):
        for c in range(3):
            for i in range(4):
                for j in range(5):
                    assert drawn[n, c, i, j] == uniform(fold_in(KEYS[n], c * 4 + i), j)


def test_draws_for_pixels_have_their_distributions() -> None:
    assert stats.kstest(at_pixels(uniform, KEYS, (3, 32, 32)).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(at_pixels(normal, KEYS, (3, 32, 32)).flatten().numpy(), "norm").pvalue > 1e-3
    counts = torch.bincount(at_pixels(integers, KEYS, (32, 32), high=8).flatten()).numpy()
    assert stats.chisquare(counts).pvalue > 1e-3


def test_draws_of_neighbours_channels_and_samples_are_independent() -> None:
    drawn = at_pixels(normal, KEYS, (3, 32, 32)).double()
    for axis in range(4):
        product = (drawn * drawn.roll(1, axis)).mean() * drawn.numel() ** 0.5
        assert abs(product) < 4.5, f"axis {axis}"


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise(severity: int) -> None:
    added = corrupt(gray(127), KEYS, "gaussian_noise", severity).double() - 127
    deviation = 255 * DEVIATION[severity - 1]
    error = deviation / added.numel() ** 0.5
    assert abs(added.mean() + 0.5) < 4.5 * error  # levels are cut off: half a level is lost
    assert added.std() == pytest.approx((deviation**2 + 1 / 12) ** 0.5, rel=0.01)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise(severity: int) -> None:
    white, level = PHOTONS[severity - 1], 102
    noisy = corrupt(gray(level), KEYS, "shot_noise", severity).double()
    photons = torch.ceil(noisy * white / 255 - 1e-9) if white < 255 else (noisy + 0.5) * white / 255
    rate = level / 255 * white
    assert abs(photons.mean() - rate) < 4.5 * (rate / noisy.numel()) ** 0.5 + (white > 255) * 0.02
    assert photons.var() == pytest.approx(rate, rel=0.02)
    assert (corrupt(gray(0), KEYS, "shot_noise", severity) == 0).all()


@pytest.mark.parametrize("drawn", [0.0, 1 - 2**-24])
def test_shot_noise_of_the_smallest_and_the_largest_draw(drawn: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "at_pixels", lambda distribution, keys, shape: torch.full((len(keys), *shape), drawn))
    ramp = torch.arange(256, dtype=torch.uint8).expand(1, 3, 256).reshape(1, 3, 16, 16)
    noisy = corrupt(ramp, KEYS[:1], "shot_noise", 5).long().flatten(1)[0, :256]
    least, most = (
        np.floor(np.minimum(stats.poisson.ppf(chance, np.arange(256) * (50 / 255)), 50) * 255 / 50)
        for chance in (max(drawn, 1e-300), drawn + 2**-24 - 1e-12)
    )
    assert ((least <= noisy.numpy()) & (noisy.numpy() <= most)).all()
    assert noisy[0] == 0


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise(severity: int) -> None:
    noisy = corrupt(gray(100), KEYS, "impulse_noise", severity)
    share = REPLACED[severity - 1]
    for level in (0, 255):
        found = (noisy == level).double().mean()
        assert abs(found - share / 2) < 4.5 * (share / 2 / noisy.numel()) ** 0.5
    assert np.isin(noisy.numpy(), [0, 100, 255]).all()
