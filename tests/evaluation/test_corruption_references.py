"""Every corruption against a naive one: one image at a time, in float64, with the published loops and constants."""

import colorsys
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from kd_lightning.data.augmentations.base import between
from kd_lightning.evaluation.corruptions import corrupt
from kd_lightning.evaluation.corruptions.base import at_pixels
from kd_lightning.evaluation.corruptions.frost import ice
from kd_lightning.randomness import fold_in, integers, named_key, normal, sample_keys, uniform

Key = torch.Tensor
"""Of one image: 1, int64, as the corruption gets it."""
# every corruption at one severity of each published scale, with the constants of the published code
CASES = {
    "gaussian_noise": {(32, 3): 0.08, (64, 5): 0.18, (224, 1): 0.08},
    "shot_noise": {(32, 3): 100, (64, 5): 15, (224, 1): 60},
    "impulse_noise": {(32, 3): 0.03, (64, 5): 0.14, (224, 1): 0.03},
    "defocus_blur": {
        (32, 2): (0.4, 0.5),
        (32, 5): (1.5, 0.1),
        (64, 5): (3, 0.1),
        (224, 4): (8, 0.5),
        (224, 5): (10, 0.5),
    },
    "glass_blur": {(32, 5): (0.4, 1, 2), (64, 4): (0.7, 2, 1), (64, 5): (0.9, 2, 2), (224, 5): (1.5, 4, 2)},
    "motion_blur": {(32, 5): (9, 2.5), (64, 1): (10, 1), (224, 3): (15, 8)},
    "zoom_blur": {(32, 3): (1.16, 0.01), (64, 1): (1.06, 0.01), (224, 5): (1.31, 0.03)},
    "snow": {
        (32, 4): (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (64, 3): (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (224, 1): (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    },
    "frost": {(32, 5): (0.75, 0.45), (64, 2): (0.9, 0.4), (224, 3): (0.7, 0.7)},
    "fog": {(32, 2): (0.5, 3), (64, 5): (2, 1.75), (224, 4): (2.5, 1.5)},
    "brightness": {(32, 4): 0.2, (64, 5): 0.5, (224, 1): 0.1},
    "contrast": {(32, 5): 0.15, (64, 1): 0.4, (224, 3): 0.2},
    "elastic_transform": {
        (32, 1): (0, 0, 32 * 0.08),
        (32, 2): (32 * 0.05, 32 * 0.2, 32 * 0.07),
        (64, 3): (64 * 0.1, 64 * 0.08, 64 * 0.06),
        (224, 1): (244 * 2, 244 * 0.7, 244 * 0.1),
        (224, 5): (244 * 0.12, 244 * 0.01, 244 * 0.02),
    },
    "pixelate": {(32, 1): 0.95, (32, 4): 0.75, (64, 4): 0.6, (224, 5): 0.25},
    "jpeg_compression": {(32, 1): 80, (64, 5): 25, (224, 2): 18},
}


def picture(side: int, seed: int = 0) -> np.ndarray:
    """side,side,3 uint8: warm colours with some noise, a light, a gray and a black corner."""
    generator = np.random.default_rng(seed)
    smooth = ndimage.zoom(generator.uniform(0, 255, (4, 4, 3)), (side / 4, side / 4, 1), order=1)
    image = np.clip(smooth + generator.normal(0, 20, smooth.shape), 0, 255) * [1, 0.9, 0.8]
    image = image.astype(np.uint8)
    corner = side // 5
    image[:corner, :corner], image[:corner, -corner:], image[-corner:, :corner] = (255, 235, 215), 128, 0
    return image


def drawn(distribution: Callable, key: Key, *shape: int, **kwargs: int) -> np.ndarray:
    return at_pixels(distribution, key, shape, **kwargs)[0].double().numpy()


def channels_last(draws: np.ndarray) -> np.ndarray:
    return draws.transpose(1, 2, 0)


def gaussian_noise(x: np.ndarray, key: Key, c: float) -> np.ndarray:
    return np.clip(x / 255 + c * channels_last(drawn(normal, key, 3, *x.shape[:2])), 0, 1) * 255


def shot_noise(x: np.ndarray, key: Key, c: float) -> np.ndarray:
    chance = channels_last(drawn(uniform, key, 3, *x.shape[:2]))
    photons = stats.poisson.ppf(np.maximum(chance, 1e-12), x / 255 * c)
    photons[x == 0] = 0
    return np.clip(photons / c, 0, 1) * 255


def impulse_noise(x: np.ndarray, key: Key, c: float) -> np.ndarray:
    chance = channels_last(drawn(uniform, key, 3, *x.shape[:2]))
    return np.where(chance < c / 2, 255, np.where(chance < c, 0, x)).astype(float)


def defocus_blur(x: np.ndarray, key: Key, c: tuple[float, float]) -> np.ndarray:
    radius, sigma = c
    half, reach = (8, 1) if radius <= 8 else (int(radius), 2)
    size = 2 * half + 1
    disk = np.array([[float((i - half) ** 2 + (j - half) ** 2 <= radius**2) for j in range(size)] for i in range(size)])
    disk = np.pad(disk / disk.sum(), reach, mode="reflect")
    line = np.exp([-((i - reach) ** 2) / (2 * sigma**2) for i in range(2 * reach + 1)])
    soft = np.outer(line, line) / line.sum() ** 2
    kernel = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            kernel[i, j] = (disk[i : i + 2 * reach + 1, j : j + 2 * reach + 1] * soft).sum()
    blurred = [ndimage.correlate(x[..., i].astype(float), kernel, mode="mirror") for i in range(3)]
    return np.stack(blurred, axis=-1)


def glass_blur(x: np.ndarray, key: Key, c: tuple[float, int, int]) -> np.ndarray:
    sigma, reach, passes = c
    height, width = x.shape[:2]

    def soft(image: np.ndarray) -> np.ndarray:
        return np.stack(
            [ndimage.gaussian_filter(image[..., i].astype(float), sigma, mode="nearest") for i in range(3)], -1
        )

    x = np.uint8(soft(x) + 1e-6)
    for number in range(passes):
        own = fold_in(key, number)
        right, down = (
            drawn(integers, named_key(own, way), height, width, high=2 * reach).astype(int) - reach
            for way in ("right", "down")
        )
        for i in range(height - reach, reach, -1):
            for j in range(width - reach, reach, -1):
                k, m = i + down[i, j], j + right[i, j]
                x[i, j], x[k, m] = x[k, m], x[i, j]  # views, as published: the second copy does nothing
    return soft(x)


def moved(x: np.ndarray, angle: float, radius: int, sigma: float) -> np.ndarray:
    width, total = 2 * radius + 1, np.zeros(x.shape)
    weights = [np.exp(-(i**2) / (2 * sigma**2)) for i in range(width)]
    rows, columns = np.mgrid[: x.shape[0], : x.shape[1]]
    for i, weight in enumerate(weights):
        down, right = (int(np.ceil(i * f(np.deg2rad(angle)) - 0.5)) for f in (np.sin, np.cos))
        rows_there = np.clip(rows + down, 0, x.shape[0] - 1)
        total += weight / sum(weights) * x[rows_there, np.clip(columns + right, 0, x.shape[1] - 1)]
    return total


def motion_blur(x: np.ndarray, key: Key, c: tuple[int, float]) -> np.ndarray:
    return moved(x.astype(float), between(key, -45, 45).item(), *c) + 0.5


def clipped_zoom(x: np.ndarray, factor: float) -> np.ndarray:
    side = len(x)
    inner = int(np.ceil(side / factor))
    first = (side - inner) // 2
    large = ndimage.zoom(x[first : first + inner, first : first + inner], (factor, factor, 1), order=1)
    surplus = (len(large) - side) // 2
    return large[surplus : surplus + side, surplus : surplus + side]


def zoom_blur(x: np.ndarray, key: Key, c: tuple[float, float]) -> np.ndarray:
    factors = np.arange(1, *c)
    return (x + sum(clipped_zoom(x.astype(float), factor) for factor in factors)) / (len(factors) + 1)


def snow(x: np.ndarray, key: Key, c: tuple[float, ...]) -> np.ndarray:
    mean, deviation, factor, least, radius, sigma, keep = c
    flakes = clipped_zoom(mean + deviation * channels_last(drawn(normal, key, 1, *x.shape[:2])), factor)
    flakes[flakes < least] = 0
    flakes = np.uint8(np.clip(flakes, 0, 1) * 255)
    flakes = np.uint8(
        moved(flakes.astype(float), between(named_key(key, "angle"), -135, -45).item(), radius, sigma) + 0.5
    )
    x = x / 255
    gray = (x @ [0.299, 0.587, 0.114])[..., None]
    x = keep * x + (1 - keep) * np.maximum(x, gray * 1.5 + 0.5)
    return (x + flakes / 255 + np.rot90(flakes, 2) / 255) * 255


def frost(x: np.ndarray, key: Key, c: tuple[float, float]) -> np.ndarray:
    return c[0] * x + c[1] * 255 * channels_last(ice(key, *x.shape[:2])[0].numpy())


def fog(x: np.ndarray, key: Key, c: tuple[float, float]) -> np.ndarray:
    thickness, decay = c
    size = next(2**i for i in range(12) if 2**i >= len(x))
    noise, field = 2 * drawn(uniform, key, size, size) - 1, np.zeros((size, size))
    step, wibble = size, 100.0
    while step >= 2:
        half = step // 2
        for square in (True, False):  # the middles of squares, then those of the diamonds between them
            for i in range(0, size, half):
                for j in range(0, size, half):
                    odd = (i // half) % 2 + (j // half) % 2
                    if odd != (2 if square else 1):
                        continue
                    ways = [(-1, -1), (-1, 1), (1, -1), (1, 1)] if square else [(-1, 0), (1, 0), (0, -1), (0, 1)]
                    around = [field[(i + a * half) % size, (j + b * half) % size] for a, b in ways]
                    field[i, j] = sum(around) / 4 + wibble * wibble * noise[i, j]
        step, wibble = half, wibble / decay
    field = (field - field.min()) / (field.max() - field.min())
    x = x / 255
    brightest = x.max()
    return (x + thickness * field[: len(x), : len(x), None]) * brightest / (brightest + thickness) * 255


def brightness(x: np.ndarray, key: Key, c: float) -> np.ndarray:
    def brighter(pixel: np.ndarray) -> tuple[float, float, float]:
        hue, saturation, value = colorsys.rgb_to_hsv(*(float(v) for v in pixel / 255))
        return colorsys.hsv_to_rgb(hue, saturation, min(value + c, 1))

    return np.array([[brighter(pixel) for pixel in row] for row in x]) * 255


def contrast(x: np.ndarray, key: Key, c: float) -> np.ndarray:
    mean = (x / 255).mean(axis=(0, 1))
    return ((x / 255 - mean) * c + mean) * 255


def elastic_transform(x: np.ndarray, key: Key, c: tuple[float, float, float]) -> np.ndarray:
    strength, sigma, reach = c
    side = len(x)
    middle, half = side // 2, side // 3
    start = np.array([(middle + half, middle + half), (middle + half, middle - half), (middle - half, middle - half)])
    end = start + reach * (2 * drawn(uniform, named_key(key, "affine"), 3, 2) - 1)
    back = np.linalg.solve(np.c_[end, np.ones(3)], start)
    i, j = np.mgrid[:side, :side].astype(float)
    there = np.stack([j, i, np.ones_like(i)], axis=-1) @ back
    x = x.astype(float)
    x = np.stack(
        [ndimage.map_coordinates(x[..., k], (there[..., 1], there[..., 0]), order=1, mode="mirror") for k in range(3)],
        -1,
    )
    right, down = (2 * drawn(uniform, named_key(key, way), side, side) - 1 for way in ("right", "down"))
    if sigma:
        right, down = (ndimage.gaussian_filter(d, sigma, mode="reflect", truncate=3) * strength for d in (right, down))
    else:
        right, down = 0, 0
    places = (i + down, j + right)
    return np.stack([ndimage.map_coordinates(x[..., k], places, order=1, mode="reflect") for k in range(3)], -1)


def pixelate(x: np.ndarray, key: Key, c: float) -> np.ndarray:
    side = len(x)
    small = Image.fromarray(x).resize((int(side * c), int(side * c)), Image.Resampling.BOX)
    return np.array(small.resize((side, side), Image.Resampling.BOX)).astype(float)


def jpeg_compression(x: np.ndarray, key: Key, c: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(x).save(file, "JPEG", quality=c)
    return np.array(Image.open(file)).astype(float)


NAIVE = {name: globals()[name] for name in CASES}


@pytest.mark.parametrize(
    ("name", "side", "severity"), [(name, *where) for name, table in CASES.items() for where in table]
)
def test_each_is_what_the_published_loops_give(name: str, side: int, severity: int) -> None:
    image, key = picture(side), sample_keys(3, 0, torch.tensor([side]))
    ours = corrupt(torch.from_numpy(image).permute(2, 0, 1)[None], key, name, severity)[0].permute(1, 2, 0).numpy()
    exact = NAIVE[name](image, fold_in(named_key(key, name), severity), CASES[name][side, severity])
    if name == "jpeg_compression":  # Pillow and torchvision bring their own libjpeg
        assert np.abs(ours - exact).mean() < 0.5
        return
    # cut off to whole levels; a value within 1e-3 of one may be either, which is float32 against float64
    low, high = (np.floor(np.clip(exact + slack, 0, 255)) for slack in (-1e-3, 1e-3))
    assert ((low <= ours) & (ours <= high)).all(), np.abs(ours - exact).max()
    assert (ours == np.floor(np.clip(exact + 1e-6, 0, 255))).mean() > 0.9999
