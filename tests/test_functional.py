"""full_precision: the types that a loss gets, for all types of inputs."""

import inspect

import pytest
import torch
from torch import Tensor

from kd_lightning.functional import full_precision


@full_precision
def seen(student: Tensor, teacher: Tensor, labels: Tensor | None = None, *, scale: float = 1.0) -> dict:
    """Return the types of the arguments and of a product, which autocast would lower."""
    return {
        "student": student.dtype,
        "teacher": teacher.dtype,
        "labels": None if labels is None else labels.dtype,
        "product": (student @ teacher.T.to(student.dtype)).dtype,
        "scale": scale,
        "autocast": torch.is_autocast_enabled("cpu"),
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("lowered", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("by_name", [False, True])
def test_the_loss_gets_float32_without_autocast(dtype: torch.dtype, lowered: torch.dtype, by_name: bool) -> None:
    pair = {"student": torch.rand(3, 4, dtype=dtype), "teacher": torch.rand(3, 4, dtype=dtype)}
    with torch.autocast("cpu", lowered):
        found = seen(**pair) if by_name else seen(*pair.values())
        assert torch.is_autocast_enabled("cpu")
        assert (torch.rand(3, 4) @ torch.rand(4, 3)).dtype == lowered
    assert {found["student"], found["teacher"], found["product"]} == {torch.float32}
    assert not found["autocast"]


def test_float64_stays() -> None:
    found = seen(torch.rand(3, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float16), scale=2)
    assert (found["student"], found["teacher"], found["scale"]) == (torch.float64, torch.float32, 2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_labels_and_masks_are_not_converted(dtype: torch.dtype) -> None:
    rows = torch.ones(3, dtype=dtype)
    assert seen(torch.rand(3, 4), torch.rand(3, 4), rows)["labels"] == dtype
    assert seen(torch.rand(3, 4), torch.rand(3, 4), labels=rows)["labels"] == dtype


def test_the_gradient_has_the_type_of_the_input() -> None:
    student = torch.rand(3, 4, dtype=torch.float16, requires_grad=True)
    full_precision(lambda given: given.square().sum())(student).backward()
    assert student.grad.dtype == torch.float16
    torch.testing.assert_close(student.grad, 2 * student.detach())


def test_the_loss_keeps_its_name_signature_and_docstring() -> None:
    assert seen.__name__ == "seen"
    assert [*inspect.signature(seen).parameters] == ["student", "teacher", "labels", "scale"]
    assert seen.__doc__.startswith("Return the types")
