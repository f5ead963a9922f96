"""Inputs of the golden values: fixed float64 matrices."""

import torch
from torch import Tensor


def _grid(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    return torch.arange(rows, dtype=torch.float64)[:, None], torch.arange(columns, dtype=torch.float64)[None]


def teacher(rows: int, columns: int) -> Tensor:
    i, j = _grid(rows, columns)
    return torch.sin(1 + 0.7 * i + 1.3 * j + 0.05 * i * j) + 0.3


def student(rows: int, columns: int) -> Tensor:
    i, j = _grid(rows, columns)
    return torch.cos(0.5 + 0.9 * i + 0.4 * j - 0.03 * i * j)
