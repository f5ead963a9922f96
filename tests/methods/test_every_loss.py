"""Tests of every pure loss function in the methods' files. They find the losses of new methods by themselves."""

import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import get_origin

import pytest
import torch
from helpers.factories import MODULES
from torch import Tensor

from kd_lightning import functional

SETTINGS = {"temperature": 4.0, "dim": 0, "student_temperature": 0.2, "teacher_temperature": 0.1, "gamma": 0.5}
LEAST_ELSEWHERE = "not minimal at {} = {}"
"""Part of the docstring of a loss that is not minimal there, with the names of its first two arguments."""
COPIES_ARE_NEGATIVES = "copies of a sample are negatives"
"""Part of the docstring of a loss that grows if samples are repeated, because it separates the samples of a batch."""
PAIRS = [
    ("student|mapped|mean|generated|distillation", "teacher"),
    ("view", "other_view"),
    ("embedding", "target"),
]
"""Names of a loss's first two arguments. TinTeM's head maps the teacher's vectors, and VID predicts a mean."""
ORDERED = "depends on the order of the samples"
"""Part of the docstring of a loss that compares each sample with the next one, and the last copy with a first one."""
LOGARITHMIC = "grows as log N"
"""Part of the docstring of a loss that tells each sample from all N samples."""
GROWING = "grows with the number of samples"
"""Part of the docstring of a loss that is a sum over samples by its definition."""
FOURTH_POWER = "fourth power of the features"
"""Part of the docstring of a loss whose gradient may exceed the largest number of float16."""
CONSTANTS = "constants for the gradient"
"""Part of the docstring of a loss in which functions of the student's tensor are detached."""


def losses() -> dict[str, Callable[..., Tensor]]:
    """Losses of a student and a teacher, by name. A loss of logits and labels alone has no teacher."""
    found = {}
    for module in (*MODULES, functional):
        content = vars(module).items()
        own = {n: f for n, f in content if n.endswith("_loss") and f.__module__ == module.__name__}
        stem = module.__name__.rpartition(".")[2]
        found |= {f"{stem}.{n}" if n in found else n: f for n, f in own.items()}
    return {name: loss for name, loss in found.items() if [*inspect.signature(loss).parameters][1:2] != ["labels"]}


LOSSES = losses()


def says(name: str, words: str) -> bool:
    """Return whether the docstring of a loss contains these words."""
    return words.lower() in " ".join((inspect.getdoc(LOSSES[name]) or "").lower().split())


def call(name: str, student: Tensor, teacher: Tensor) -> Tensor:
    wanted = inspect.signature(LOSSES[name]).parameters
    columns = student.shape[1]
    parity = teacher.argmin(dim=1) % 2  # of each sample, wherever it is in the batch
    labels = (teacher.argmax(dim=1) + parity) % columns  # the teacher is right about half of them
    given = {
        **dict.fromkeys(("queue", "gallery", "centers"), torch.eye(columns, dtype=student.dtype)),
        "labels": labels,
    }
    scale = torch.ones(columns, dtype=student.dtype)
    settings = {**SETTINGS, **given, "temperatures": 3.0 + parity, "log_scale": scale}
    settings["costs"] = 1 - torch.eye(columns, dtype=student.dtype)
    settings["margins"] = [torch.full((channels,), -0.3, dtype=student.dtype) for channels in (3, 2)]
    keywords = [parameter for parameter in wanted.values() if parameter.kind is parameter.KEYWORD_ONLY]
    if unknown := [each.name for each in keywords if each.default is each.empty and each.name not in settings]:
        pytest.fail(f"{name}: give {unknown[0]} a default, or add its value to SETTINGS in {__file__}", pytrace=False)
    first = next(iter(wanted))
    if first.endswith(("_map", "_factor")):
        student, teacher = (tensor[:, None, :, None] for tensor in (student, teacher))
    elif first.endswith("_maps"):  # class maps of three classes
        student, teacher = (torch.stack([x, x.roll(1, 1), x.abs()], dim=1)[..., None] for x in (student, teacher))
        if get_origin(wanted[first].annotation) is Sequence:  # maps of two stages
            student, teacher = ([x, x[:, :2].flip(1, 2)] for x in (student, teacher))
    elif first.endswith("_regions"):  # logits of the image and of two regions
        student, teacher = (torch.stack([x, x.roll(1, 1), x.abs()], dim=2) for x in (student, teacher))
    elif name.startswith("position_"):
        student, teacher = (tensor[..., None] for tensor in (student, teacher))
    return LOSSES[name](student, teacher, **{key: value for key, value in settings.items() if key in wanted})


def pair(rows: int = 12, columns: int = 10, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    student, teacher = torch.randn(2, rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def test_the_losses_are_found() -> None:
    assert {"kd_loss", "sp_loss"} <= {*LOSSES}


@pytest.mark.parametrize("name", LOSSES)
def test_signature_is_student_first_teacher_second_then_keywords(name: str) -> None:
    first, *more = inspect.signature(LOSSES[name]).parameters.values()
    assert more, f"{name} has no second argument; a function with another purpose needs another name than *_loss"
    second, *others = more
    assert any(re.search(one, first.name) and re.search(other, second.name) for one, other in PAIRS), (first, second)
    positional = ("labels", "gallery", "log_scale", "centers", "margins")
    assert all(each.kind == each.KEYWORD_ONLY or each.name in positional for each in others)


@pytest.mark.parametrize("name", LOSSES)
def test_least_where_student_is_teacher(name: str) -> None:
    pair_of = [*inspect.signature(LOSSES[name]).parameters][:2]
    if says(name, LEAST_ELSEWHERE.format(*pair_of)) or says(name, LEAST_ELSEWHERE.format("student", "teacher")):
        pytest.skip("its docstring says so")
    student, teacher = pair()
    same = teacher.clone().requires_grad_()
    least = call(name, same, teacher)
    least.backward()
    assert same.grad.abs().max() < 1e-5
    assert call(name, student, teacher) > least + 1e-5


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_losses_own(name: str) -> None:
    if says(name, CONSTANTS):
        pytest.skip("its golden gradient is tested instead")
    student, teacher = pair(5, 4)
    assert torch.autograd.gradcheck(lambda moved: call(name, moved, teacher), (student,))


@pytest.mark.parametrize("name", LOSSES)
def test_two_classes_still_teach(name: str) -> None:
    """With two classes, DKD in another codebase has no gradient."""
    student, teacher = pair(8, 2)
    call(name, student, teacher).backward()
    assert student.grad.abs().max() > 1e-4


@pytest.mark.parametrize("name", LOSSES)
def test_more_of_the_same_samples_are_no_larger_loss(name: str) -> None:
    """A loss that sums over the samples would grow with the batch, and so would the effect of its weight."""
    if says(name, COPIES_ARE_NEGATIVES) or says(name, ORDERED):
        pytest.skip("its docstring says so")
    student, teacher = pair()
    once, often = call(name, student, teacher), call(name, student.repeat(4, 1), teacher.repeat(4, 1))
    if says(name, GROWING):
        assert often > once
    elif says(name, LOGARITHMIC):
        torch.testing.assert_close(often, once + math.log(4))
    else:
        assert often <= once + 1e-6 * once.abs()


EXTREMES = {
    "gaps of 1e4": lambda: (pair()[0].detach() * 1e4, pair()[1] * -1e4),
    "two classes": lambda: (pair(8, 2)[0].detach(), pair(8, 2)[1]),
    "one sample": lambda: (pair(1, 10)[0].detach(), pair(1, 10)[1]),
    "two samples": lambda: (pair(2, 10)[0].detach(), pair(2, 10)[1]),
    "constant": lambda: (torch.full((6, 5), 3.0), torch.full((6, 5), -2.0)),
    "all zero": lambda: (torch.zeros(6, 5), torch.zeros(6, 5)),
    "a zero sample": lambda: (pair()[0].detach() * (torch.arange(12)[:, None] != 4), pair()[1]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_finite_at_the_extremes(name: str, extreme: str, dtype: torch.dtype) -> None:
    student, teacher = (tensor.to(dtype) for tensor in EXTREMES[extreme]())
    student.requires_grad_()
    loss = call(name, student, teacher)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all() or (says(name, FOURTH_POWER) and dtype == torch.float16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_autocast_does_not_reach_the_loss(name: str, dtype: torch.dtype) -> None:
    student, teacher = pair(64, 100, torch.float32)
    with torch.autocast("cpu", dtype):
        inside = call(name, student, teacher)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, call(name, student, teacher))
    rounded = call(name, student.to(dtype), teacher.to(dtype))
    assert rounded.item() == pytest.approx(inside.item(), rel=0.02)
