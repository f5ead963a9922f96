"""Compare the outputs of an exported file with PyTorch's outputs on real images."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kd_lightning.commands.export.exported_model import InferenceFn
from kd_lightning.errors import RunError

FIRST_BATCH_SIZES = (1, 3, 7)
"""Sizes of the first batches: a single image, and odd sizes."""
CHUNK = 32


@dataclass(frozen=True)
class Parity:
    """Differences between the outputs of an exported file and PyTorch's outputs."""

    images: int
    largest: float
    """The largest absolute difference of any output."""
    scale: float
    """The largest absolute value in PyTorch's outputs."""
    same_class: float | None
    """Share of images with the same highest logit; None without logits."""
    batch_sizes: list[int]

    @property
    def relative(self) -> float:
        return self.largest / self.scale if self.scale else self.largest

    def check(self, name: str, tolerance: float) -> None:
        """Raise an error if the outputs differ too much, or are not finite.

        Raises:
            RunError: if the largest difference is more than `tolerance` times PyTorch's largest output, or not finite.
                The message contains the difference.
        """
        if not self.relative <= tolerance:
            raise RunError(
                f"{name}: on {self.images} images, the outputs of the exported file differ from the outputs of PyTorch "
                f"by up to {self.largest:.2g}; this is {self.relative:.2g} of the largest output {self.scale:.4g}, but "
                f"the tolerance is {tolerance:g}; no file was written"
            )

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def sizes(count: int) -> list[int]:
    """Return the sizes of the batches for `count` images: 1, 3 and 7, then 32 each."""
    batch_sizes, remaining = [], count
    for size in FIRST_BATCH_SIZES:
        if remaining >= size:
            batch_sizes.append(size)
            remaining -= size
    return [*batch_sizes, *([CHUNK] * (remaining // CHUNK)), *([remaining % CHUNK] if remaining % CHUNK else [])]


def compare(reference: tuple[Tensor, ...], run: InferenceFn, images: Tensor, outputs: tuple[str, ...]) -> Parity:
    """Compare the outputs of `run` for images N,3,S,S with PyTorch's outputs, in batches of several sizes.

    Raises:
        RunError: if the numbers or the shapes of the outputs differ.
    """
    batch_sizes = sizes(len(images))
    results = [run(part) for part in images.split(batch_sizes)]
    exported = [torch.cat([part[place] for part in results]).double() for place in range(len(results[0]))]
    shapes = [tuple(part.shape) for part in exported]
    if shapes != [tuple(part.shape) for part in reference]:
        expected_shapes = [tuple(part.shape) for part in reference]
        raise RunError(
            f"export: the outputs of the exported file have the shapes {shapes}, but those of PyTorch have the shapes "
            f"{expected_shapes}"
        )
    pairs = list(zip(reference, exported, strict=True))
    differences = torch.stack([(expected.double() - actual).abs().max() for expected, actual in pairs])
    scale = max(float(expected.abs().max()) for expected in reference)
    same_class = None
    if "logits" in outputs:
        expected, actual = pairs[outputs.index("logits")]
        same_class = float((expected.argmax(1) == actual.argmax(1)).float().mean())
    # torch's max propagates NaN, which exceeds every tolerance
    return Parity(len(images), float(differences.max()), scale, same_class, sorted(set(batch_sizes)))


def run_in_batches(run: InferenceFn, images: Tensor) -> tuple[Tensor, ...]:
    """Return all outputs for images N,3,S,S, computed in the same batches as in `compare`."""
    outputs = [run(part) for part in images.split(sizes(len(images)))]
    return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
