"""Speed of the loader for training batches, compared with other loaders."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from timm.data import IMAGENET_DEFAULT_MEAN as MEAN
from timm.data import IMAGENET_DEFAULT_STD as STD
from timm.data import ImageDataset, create_loader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import v2

from benchmarks.tables import say_round
from kd_lightning.commands.running import run_class
from kd_lightning.data.archives import folder_at
from kd_lightning.data.augmentations import ColorJitter, HorizontalFlip, RandomCrop, RandomResizedCrop
from kd_lightning.data.base import ImageData, Split
from kd_lightning.data.folder import ImageFolder
from kd_lightning.data.images import StoredImages
from kd_lightning.data.loader import cores
from kd_lightning.errors import ConfigError

NORMALISED = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
Loader = Callable[[], Iterable[Any]]
TableName = Literal["memory", "small", "large"]


class DataBenchmark:
    """Measures how many images per second a loader decodes and augments for training batches on the CPU.

    There are three tables. Each table compares loaders on the same images. The loaders are timed in turns. The first
    round is not counted.

    - memory: 32-pixel images in memory, with crop and flip. kd_lightning is compared with torchvision's CIFAR10 with
      Pillow transforms, and with torchvision's v2 transforms on one tensor after the other. The other two loaders
      normalise the images. In kd_lightning, the networks normalise the images on their device. A separate row therefore
      shows kd_lightning with normalisation on the CPU.
    - small: 64-pixel JPEGs, with RandomResizedCrop, flip and colour jitter. kd_lightning is compared with torchvision's
      ImageFolder with Pillow transforms. Neither loader normalises the images.
    - large: 224-pixel crops of large JPEGs. kd_lightning is compared with timm's loader with its default settings. Both
      loaders normalise the images.

    Args:
        small: path of a folder or archive with JPEGs of one small size in class folders, such as `train` of
            Tiny-ImageNet. Default: 3,000 images of noise.
        large: path of a folder or archive with photographs in class folders. Default: 400 images of noise with 500 x
            375 pixels.
        batch_size: batch size of all loaders.
        rounds: number of timed rounds. Their median and their range are printed.
        seconds: maximum time of a loader in each round, in seconds.
        tables: tables to measure. Default: all three tables.
    """

    def __init__(
        self,
        small: str | None = None,
        large: str | None = None,
        batch_size: int = 128,
        rounds: int = 5,
        seconds: float = 4.0,
        tables: list[TableName] | None = None,
    ) -> None:
        for field, value in (("batch_size", batch_size), ("rounds", rounds), ("seconds", seconds)):
            if value <= 0:
                raise ConfigError(f"{field}: {value} is not positive")
        self.small, self.large = small, large
        self.batch_size, self.rounds, self.seconds = batch_size, rounds, seconds
        self.tables = tables or ["memory", "small", "large"]

    def __call__(self) -> dict[str, dict[str, float]]:
        """Return the median number of images per second of each loader, by the title of the table."""
        workers = sorted({0, 1, cores()})
        results = {}
        with tempfile.TemporaryDirectory() as folder:
            if "memory" in self.tables:
                results["32 px in memory, crop and flip"] = self._measure(_memory(self.batch_size, workers))
            if "small" in self.tables:
                small = folder_at(self.small, "small") if self.small else _noise(Path(folder) / "small", 3000, (64, 64))
                title = "64 px JPEGs, RandomResizedCrop, flip, colour jitter"
                results[title] = self._measure(_small(small, self.batch_size, workers))
            if "large" in self.tables:
                large = (
                    folder_at(self.large, "large") if self.large else _noise(Path(folder) / "large", 400, (500, 375))
                )
                title = "224 px of large JPEGs, RandomResizedCrop, flip"
                results[title] = self._measure(_large(large, self.batch_size, cores()))
        self._print(results)
        return {
            title: {name: statistics.median(speeds) for name, speeds in table.items()}
            for title, table in results.items()
        }

    def _measure(self, loaders: dict[str, Loader]) -> dict[str, list[float]]:
        speeds: dict[str, list[float]] = {name: [] for name in loaders}
        for number in range(self.rounds + 1):
            for name, loader in loaders.items():
                speed = _images_per_second(loader, self.seconds)
                if number:
                    speeds[name].append(speed)
            say_round(number, self.rounds, ", ".join(loaders))
        return speeds

    def _print(self, results: dict[str, dict[str, list[float]]]) -> None:
        console = Console()
        for title, speeds in results.items():
            table = Table(title=f"{title} (batch {self.batch_size}, {self.rounds} rounds)", title_justify="left")
            for column in ("", "images/s, median", "lowest to highest", "speed of kd_lightning"):
                table.add_column(column, justify="left" if not column else "right")
            own = statistics.median(speeds["kd_lightning"])
            for name, values in speeds.items():
                median = statistics.median(values)
                ratio = "" if name == "kd_lightning" else f"{own / median:.2f} x"
                table.add_row(name, f"{median:,.0f}", f"{min(values):,.0f} to {max(values):,.0f}", ratio)
            console.print(table)


def _images_per_second(loader: Loader, seconds: float) -> float:
    """Return the images per second of a loader.

    The loader is read again and again until the time is over. The start of its workers is included.
    """
    count, started = 0, time.perf_counter()
    while True:
        for images in loader():
            count += len(images)
            if time.perf_counter() - started > seconds:
                return count / (time.perf_counter() - started)


def _kd_lightning_loader(data: ImageData, *, normalise: bool = False) -> Loader:
    data.setup("fit")
    epochs = iter(range(10**9))
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    loader = data.train_dataloader()

    def batches() -> Iterator[Tensor]:
        loader.sampler.set_epoch(next(epochs))
        for batch in loader:
            images = data.augmented(batch).images
            yield images.float().div_(255).sub_(mean).div_(std) if normalise else images

    return batches


def _torch_loader(dataset: Dataset, batch_size: int, workers: int) -> Loader:
    loader = DataLoader(
        dataset, batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: (images for images, _ in loader)


class _Noise32(ImageData):
    num_classes, class_names, name = 10, [str(n) for n in range(10)], "noise"

    def load(self, split: Split) -> StoredImages | None:
        pixels = np.random.default_rng(0).integers(0, 256, (50_000, 3, 32, 32), dtype=np.uint8)
        return StoredImages(torch.from_numpy(pixels), torch.arange(50_000) % 10) if split == "train" else None


class _OnTensors(Dataset):
    """Images that are transformed one after the other, as in torchvision's documentation for tensors."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.transform = v2.Compose([v2.RandomCrop(32, 4), v2.RandomHorizontalFlip(), NORMALISED])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.transform(self.images[row]), 0


def _memory(batch_size: int, workers: list[int]) -> dict[str, Loader]:
    data = _Noise32(batch_size=batch_size, val_split=0, augmentations=[RandomCrop(4), HorizontalFlip()])
    loaders = {
        "kd_lightning": _kd_lightning_loader(data),
        "kd_lightning, with normalisation": _kd_lightning_loader(data, normalise=True),
    }
    pixels = data.datasets["train"].images
    reference = object.__new__(datasets.CIFAR10)  # only its __getitem__ is used, without its files
    reference.data, reference.targets = pixels.permute(0, 2, 3, 1).numpy(), [0] * len(pixels)
    reference.target_transform = None
    reference.transform = v2.Compose([v2.RandomCrop(32, 4), v2.RandomHorizontalFlip(), v2.PILToTensor(), NORMALISED])
    for count in workers:
        loaders[f"torchvision CIFAR10, Pillow, {count} workers"] = _torch_loader(reference, batch_size, count)
        loaders[f"torchvision v2 on tensors, {count} workers"] = _torch_loader(_OnTensors(pixels), batch_size, count)
    return loaders


def _small(folder: Path, batch_size: int, workers: list[int]) -> dict[str, Loader]:
    steps = [RandomResizedCrop(), HorizontalFlip(), ColorJitter()]
    loaders = {"kd_lightning": _kd_lightning_loader(_as_data(folder, batch_size, augmentations=steps))}
    size = Image.open(datasets.ImageFolder(folder).samples[0][0]).size[0]
    transform = v2.Compose(
        [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4, 0.1), v2.PILToTensor()]
    )
    for count in workers:
        reference = datasets.ImageFolder(folder, transform)
        loaders[f"torchvision ImageFolder, Pillow, {count} workers"] = _torch_loader(reference, batch_size, count)
    return loaders


def _large(folder: Path, batch_size: int, workers: int) -> dict[str, Loader]:
    steps = [RandomResizedCrop(), HorizontalFlip()]
    data = _as_data(folder, batch_size, size=224, augmentations=steps, num_workers=workers)
    reference = create_loader(
        ImageDataset(str(folder)),
        (3, 224, 224),
        batch_size,
        is_training=True,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=workers,
        mean=MEAN,
        std=STD,
        device=torch.device("cpu"),
    )
    return {
        "kd_lightning": _kd_lightning_loader(data, normalise=True),
        f"timm's loader, {workers} workers": lambda: (images for images, _ in reference),
    }


def _as_data(folder: Path, batch_size: int, **kwargs: Any) -> ImageFolder:
    """Return the images in class folders as training data. The test split is never loaded."""
    return ImageFolder(
        path=str(folder), batch_size=batch_size, val_split=0, test_split=2 * len(_classes(folder)), **kwargs
    )


def _classes(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir()]


def _noise(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Write JPEGs of smooth noise into four class folders, and return their folder."""
    noise = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = noise.integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(place / f"{number:05}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    run_class(DataBenchmark, prog="python -m benchmarks.data")
