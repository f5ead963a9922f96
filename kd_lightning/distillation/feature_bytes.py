"""Features as rows of bytes: one row per image of a batch, with everything that a network computed for the image."""

import math
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from kd_lightning.distillation.passes import Seen
from kd_lightning.models import Features


class Column(NamedTuple):
    """The place of one tensor of the features in a row."""

    name: str
    """Name of the tensor: `logits`, `maps.0`, or `1.logits` in the second of several passes."""
    shape: list[int]
    """Shape of the values of one image of the batch. The first number is that of its images in the pass."""
    dtype: str
    """Type that the network computes."""
    stored: str
    """Type of the stored values."""
    channels_last: bool = False

    @property
    def size(self) -> int:
        """Number of bytes in a row."""
        return math.prod(self.shape) * getattr(torch, self.stored).itemsize


class Layout(NamedTuple):
    """The columns of a row, in order."""

    columns: list[Column]
    passes: int | None
    """Number of passes of the network, or None for a single pass that is not in a list."""

    @classmethod
    def of(cls, seen: Seen, count: int, dtype: str) -> Self:
        """Return the layout of the features of a batch.

        Args:
            seen: Features of the batch.
            count: Number of images of the batch.
            dtype: Type of the stored values. Values of a shorter type keep their type.

        Raises:
            ValueError: if the number of images in a pass is no multiple of `count`.
        """
        columns = []
        for name, tensor in _flat(seen).items():
            if len(tensor) % count:
                raise ValueError(f"a pass of {len(tensor)} images does not belong to the {count} images of a batch")
            own = str(tensor.dtype).removeprefix("torch.")
            stored = min(own, dtype, key=lambda each: getattr(torch, each).itemsize)
            last = tensor.ndim == 4 and not tensor.is_contiguous()
            columns.append(Column(name, [len(tensor) // count, *tensor.shape[1:]], own, stored, last))
        return cls(columns, len(seen) if isinstance(seen, list) else None)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """Return the layout of which `_asdict` was written as JSON."""
        return cls([Column(*each) for each in content["columns"]], content["passes"])

    @property
    def size(self) -> int:
        """Number of bytes of a row."""
        return sum(column.size for column in self.columns)

    def to_bytes(self, seen: Seen) -> np.ndarray:
        """Return the features of N images of a batch as N,size uint8."""
        rows = []
        for column, tensor in zip(self.columns, _flat(seen).values(), strict=True):
            images = tensor.detach().to("cpu", getattr(torch, column.stored)).unflatten(0, (column.shape[0], -1))
            rows.append(images.transpose(0, 1).flatten(1).contiguous().view(torch.uint8))
        return torch.cat(rows, dim=1).numpy()

    def from_bytes(self, content: np.ndarray, device: torch.device) -> Seen:
        """Return the features that `to_bytes` has written, on a device and with the types of the network."""
        rows = torch.from_numpy(content)
        if device.type == "cuda":
            rows = rows.pin_memory().to(device, non_blocking=True)
        tensors = {}
        for column, values in zip(self.columns, rows.split([each.size for each in self.columns], dim=1), strict=True):
            images = values.contiguous().view(getattr(torch, column.stored)).unflatten(1, column.shape)
            tensor = images.transpose(0, 1).flatten(0, 1).to(getattr(torch, column.dtype))
            form = torch.channels_last if column.channels_last else torch.contiguous_format
            tensors[column.name] = tensor.contiguous(memory_format=form)
        return _nested(tensors, self.passes)


def _flat(seen: Seen) -> dict[str, Tensor]:
    if isinstance(seen, list):
        return {f"{number}.{name}": value for number, each in enumerate(seen) for name, value in _flat(each).items()}
    found = {}
    for name, value in seen._asdict().items():
        if isinstance(value, list):
            found |= {f"{name}.{number}": tensor for number, tensor in enumerate(value)}
        elif value is not None:
            found[name] = value
    return found


def _nested(tensors: dict[str, Tensor], passes: int | None) -> Seen:
    if passes is not None:
        split = [(name.partition("."), tensor) for name, tensor in tensors.items()]
        return [
            _nested({rest: tensor for (number, _, rest), tensor in split if int(number) == each}, None)
            for each in range(passes)
        ]
    values: dict[str, Any] = {}
    for name, tensor in tensors.items():
        field, _, number = name.partition(".")
        values[field] = [*values.get(field, []), tensor] if number else tensor
    return Features(**values)
