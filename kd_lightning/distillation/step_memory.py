"""StepMemory: whether a training step fits in the memory, from the activations that a few images need."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_lightning.errors import ConfigError
from kd_lightning.io.paths import read_text

_AVAILABLE = Path("/proc/meminfo")
_CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files with the limit of a container, in both versions of cgroups."""


class StepMemory:
    """Memory that a training step needs for the images and for the activations that the backward pass reads.

    This is less than the total memory of a step, which also stores weights and gradients. An error is therefore raised
    only if this memory alone exceeds the memory of the device.

    Args:
        device: device of the step.
        data: data of the run.
    """

    def __init__(self, device: torch.device, data: Any) -> None:
        self.device, self.data = device, data
        if device.type == "cuda":
            self.free, self.limit = torch.cuda.mem_get_info(device)
        else:
            self.free, self.limit = host_memory()
        self.stored = self.per_image = 0

    def check_images(self, *sides: int | None) -> None:
        """Raise an error if the images of a batch do not fit in the memory as float32.

        Args:
            *sides: sides in pixels to which the networks resize images; None if a network does not resize them.

        Raises:
            ConfigError: in this case. The message names the fields.
        """
        side = max(side or 0 for side in (self.data.side, *sides))
        self._check(4 * 3 * side**2 * self.data.batch_size, side, self.limit)

    @contextmanager
    def counted(self, method: nn.Module, images: int) -> Iterator[None]:
        """Count the bytes that the block stores for the backward pass, except the weights.

        `per_image` only includes feature maps and tokens, because other tensors (a queue) do not grow with the batch.

        Args:
            method: method of the step.
            images: number of images in the step.

        Raises:
            ConfigError: as soon as the counted bytes exceed the free memory.
        """
        self.stored, before, self.per_image = 0, self.per_image, 0
        seen = {value.untyped_storage().data_ptr() for value in (*method.parameters(), *method.buffers())}

        def count(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                self.stored += storage.nbytes()
                if x.ndim in (3, 4) and len(x) == images:
                    self.per_image += storage.nbytes() // images
                self._check(self.stored, self.data.side, self.free)
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            yield
        self.per_image = max(before, self.per_image)

    def check_batch(self) -> None:
        """Raise an error if the counted activations do not fit in the memory for all images of a batch.

        Raises:
            ConfigError: in this case. The message names the fields.
        """
        self._check(self.per_image * self.data.batch_size, self.data.side, self.limit)

    def _check(self, needed: int, side: int, limit: int) -> None:
        if needed > limit:
            raise ConfigError(
                f"data.batch_size: a step with {self.data.batch_size} images of {side} x {side} pixels needs more than "
                f"{needed / 1e9:,.1f} GB of memory, but {self.device} has {limit / 1e9:,.1f} GB; give a smaller "
                "data.batch_size, smaller images (data.size, the size of the networks), or a smaller network"
            )


def host_memory() -> tuple[int, int]:
    """Return the bytes of memory that are available to this process now, and the bytes that it may use at most."""
    page, limits = os.sysconf("SC_PAGE_SIZE"), [read_text(f).strip() for f in _CGROUP if f.exists()]
    total = min([os.sysconf("SC_PHYS_PAGES") * page, *(int(limit) for limit in limits if limit.isdecimal())])
    found = re.search(r"^MemAvailable: +(\d+) kB", read_text(_AVAILABLE), re.M) if _AVAILABLE.exists() else None
    return min(total, int(found[1]) * 1024 if found else total), total
