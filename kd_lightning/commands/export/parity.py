"""Whether an exported file says what the checkpoint says in PyTorch, on real images."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kd_lightning.commands.export.deployed import Run
from kd_lightning.errors import RunError

FIRST = (1, 3, 7)
"""Batch sizes that come first: one alone, and odd ones."""
CHUNK = 32


@dataclass(frozen=True)
class Parity:
    """How far an exported file's outputs are from PyTorch's."""

    images: int
    largest: float
    """The largest absolute difference of any output."""
    scale: float
    """The largest absolute value in PyTorch's outputs."""
    same_class: float | None
    """The share of images with the same highest logit; None without logits."""
    batch_sizes: list[int]

    @property
    def relative(self) -> float:
        return self.largest / self.scale if self.scale else self.largest

    def check(self, name: str, tolerance: float) -> None:
        """Refuses outputs that differ by more than `tolerance` times the largest, or that are no numbers.

        Raises:
            RunError: saying by how much.
        """
        if not self.relative <= tolerance:
            raise RunError(
                f"{name}: the exported file's outputs differ from PyTorch's by up to {self.largest:.2g} on "
                f"{self.images} images, {self.relative:.2g} of the largest output {self.scale:.4g}, and tolerance is "
                f"{tolerance:g}; no file was left"
            )

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def sizes(count: int) -> list[int]:
    """How `count` images are shared out: 1, 3 and 7, then 32 each."""
    shares, left = [], count
    for size in FIRST:
        if left >= size:
            shares.append(size)
            left -= size
    return [*shares, *([CHUNK] * (left // CHUNK)), *([left % CHUNK] if left % CHUNK else [])]


def compare(reference: tuple[Tensor, ...], run: Run, images: Tensor, outputs: tuple[str, ...]) -> Parity:
    """Holds `run` to PyTorch's outputs, N,... each, of images N,3,S,S, in batches of several sizes.

    Raises:
        RunError: where the shapes or the number of outputs are others.
    """
    shares = sizes(len(images))
    given = [run(part) for part in images.split(shares)]
    found = [torch.cat([part[place] for part in given]).double() for place in range(len(given[0]))]
    shapes = [tuple(each.shape) for each in found]
    if shapes != [tuple(each.shape) for each in reference]:
        raise RunError(f"export: the exported file gives {shapes}, not {[tuple(each.shape) for each in reference]}")
    pairs = list(zip(reference, found, strict=True))
    differences = torch.stack([(ours.double() - theirs).abs().max() for ours, theirs in pairs])
    scale = max(float(ours.abs().max()) for ours in reference)
    same = None
    if "logits" in outputs:
        ours, theirs = pairs[outputs.index("logits")]
        same = float((ours.argmax(1) == theirs.argmax(1)).float().mean())
    # torch's max keeps a NaN, which no tolerance lets pass
    return Parity(len(images), float(differences.max()), scale, same, sorted(set(shares)))


def outputs_of(run: Run, images: Tensor) -> tuple[Tensor, ...]:
    """All outputs for images N,3,S,S, N,... each, in the batches that `compare` makes."""
    given = [run(part) for part in images.split(sizes(len(images)))]
    return tuple(torch.cat(parts) for parts in zip(*given, strict=True))
