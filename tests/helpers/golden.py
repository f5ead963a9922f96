"""Inputs of the golden values: fixed float64 tensors, and the norm of a loss's gradient.

Every tensor is given by a formula, so that the values can be computed again by another program.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
"""Labels of the six samples of `student_logits` and `teacher_logits`."""


def _grid(rows: int, columns: int, start: int = 0) -> tuple[Tensor, Tensor]:
    i = torch.arange(start, start + rows, dtype=torch.float64)[:, None]
    return i, torch.arange(columns, dtype=torch.float64)[None]


def teacher(rows: int, columns: int, start: int = 0) -> Tensor:
    """Vectors N,D of a teacher; `start` is the number of the first row."""
    i, j = _grid(rows, columns, start)
    return torch.sin(1 + 0.7 * i + 1.3 * j + 0.05 * i * j) + 0.3


def student(rows: int, columns: int, start: int = 0) -> Tensor:
    """Vectors N,D of a student; `start` is the number of the first row."""
    i, j = _grid(rows, columns, start)
    return torch.cos(0.5 + 0.9 * i + 0.4 * j - 0.03 * i * j)


def teacher_logits(start: int = 0) -> Tensor:
    """Logits 6,5 of a teacher."""
    return 3 * teacher(6, 5, start)


def student_logits(start: int = 0) -> Tensor:
    """Logits 6,5 of a student."""
    return 3 * student(6, 5, start)


def teacher_maps(*shape: int) -> Tensor:
    """Maps N,C,H,W or tokens N,M,D of a teacher."""
    return teacher(shape[0], torch.Size(shape[1:]).numel()).reshape(shape)


def student_maps(*shape: int) -> Tensor:
    """Maps N,C,H,W or tokens N,M,D of a student."""
    return student(shape[0], torch.Size(shape[1:]).numel()).reshape(shape)


def teacher_chirp(*shape: int) -> Tensor:
    """Maps of a teacher that have full rank."""
    i, j = _grid(shape[0], torch.Size(shape[1:]).numel())
    return torch.sin(1 + i + 0.37 * (j + 1) ** 2).reshape(shape)


def student_chirp(*shape: int) -> Tensor:
    """Maps of a student that have full rank."""
    i, j = _grid(shape[0], torch.Size(shape[1:]).numel())
    return torch.cos(0.5 + 0.8 * i + 0.53 * (j + 1) ** 2).reshape(shape)


def weight(number: int, *shape: int) -> Tensor:
    """Weight of a layer with the given number: outputs,inputs for a linear layer, O,I,H,W for a convolution."""
    columns = torch.Size(shape[1:]).numel()
    a, b = _grid(shape[0], columns)
    return (torch.cos(0.3 * a + 0.7 * b + number) / columns**0.5).reshape(shape)


def bias(number: int, outputs: int) -> Tensor:
    """Bias of a layer with the given number."""
    return 0.1 * torch.sin(torch.arange(outputs, dtype=torch.float64) + number)


def check(
    loss: Callable[..., Tensor | tuple[Tensor, ...] | list[Tensor]],
    inputs: tuple[Tensor, ...],
    values: float | list[float],
    gradient: float | None = None,
) -> None:
    """Check the golden values of a loss, and the norm of the gradient of their sum with respect to the inputs.

    Args:
        loss: Function of the inputs that returns one tensor, or several scalars.
        inputs: Tensors of the student, which get gradients.
        values: Golden value, or the golden values of all elements.
        gradient: Golden norm of the gradient. None if none is given.
    """
    moved = [x.clone().requires_grad_() for x in inputs]
    found = loss(*moved)
    found = found.flatten() if isinstance(found, Tensor) else torch.stack(list(found))
    assert found.tolist() == pytest.approx(values if isinstance(values, list) else [values], rel=1e-9)
    if gradient is not None:
        gradients = torch.autograd.grad(found.sum(), moved, allow_unused=True)
        squares = [each.square().sum() for each in gradients if each is not None]
        assert torch.stack(squares).sum().sqrt().item() == pytest.approx(gradient, rel=1e-7)
