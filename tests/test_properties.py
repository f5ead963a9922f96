"""Properties for random inputs: losses, error messages, random numbers, schedules, samplers, numbers in tables."""

import contextlib
import math

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from methods.test_every_loss import LOSSES, ORDERED, call, says
from torch import Tensor

from kd_lightning import optim, randomness
from kd_lightning.config.messages import explain
from kd_lightning.data.samplers import EpochSampler
from kd_lightning.errors import nearest
from kd_lightning.io.safe_yaml import check_yaml
from kd_lightning.redaction import redacted
from kd_lightning.reports.values import MAX_MAGNITUDE, finite_array, number, printable

QUICK = settings(deadline=None, max_examples=30, derandomize=True, database=None)
UNSCALED = "at_loss sp_loss coss_loss pkt_loss rkd_distance_loss rkd_angle_loss cosine_loss regression_loss".split()
"""Losses that do not depend on the scale of the student's features."""
TURNED = "sp_loss pkt_loss rkd_distance_loss rkd_angle_loss".split()
"""Losses that do not depend on a rotation of the student's features."""


@st.composite
def pairs(draw: st.DrawFn, least: int = 1, scale: int = 4) -> tuple[Tensor, Tensor]:
    """Draw two float32 tensors N,D of a small shape and scales of 1e-4 to 1e4, with some zero or equal rows."""
    rows, columns = draw(st.integers(least, 7)), draw(st.integers(2, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    made = []
    for _ in range(2):
        x = torch.randn(rows, columns, generator=generator) * 10.0 ** draw(st.integers(-scale, scale))
        for row in draw(st.sets(st.integers(0, rows - 1), max_size=2)):
            x[row] = 0 if draw(st.booleans()) else x[0]
        made.append(x)
    return made[0], made[1]


@pytest.fixture(scope="module", autouse=True)
def _first_draw() -> None:
    """Let hypothesis import what its first test needs, so that it counts for no method."""

    @QUICK
    @given(pair=pairs())
    def draw(pair: tuple[Tensor, Tensor]) -> None:
        assert len(pair) == 2

    draw()


@pytest.mark.parametrize("name", LOSSES)
@QUICK
@given(pair=pairs())
def test_losses_are_finite_with_finite_gradients(name: str, pair: tuple[Tensor, Tensor]) -> None:
    student, teacher = pair[0].clone().requires_grad_(), pair[1]
    loss = call(name, student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name in LOSSES if not says(name, ORDERED)])
@QUICK
@given(pair=pairs(scale=1), seed=st.integers(0, 2**31))
def test_losses_do_not_depend_on_the_order_of_the_batch(name: str, pair: tuple[Tensor, Tensor], seed: int) -> None:
    order = torch.randperm(len(pair[0]), generator=torch.Generator().manual_seed(seed))
    student, teacher = (x.double() for x in pair)
    here, there = call(name, student, teacher), call(name, student[order], teacher[order])
    assert there.item() == pytest.approx(here.item(), rel=1e-4, abs=1e-6)


def directions(seed: int, rows: int = 6, columns: int = 5) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", UNSCALED)
@QUICK
@given(seed=st.integers(0, 2**20), factor=st.floats(0.01, 100))
def test_losses_do_not_depend_on_the_scale(name: str, seed: int, factor: float) -> None:
    student, teacher = directions(seed), directions(seed + 1)
    assert call(name, student * factor, teacher).item() == pytest.approx(call(name, student, teacher).item(), rel=1e-3)


@pytest.mark.parametrize("name", TURNED)
@QUICK
@given(seed=st.integers(0, 2**20))
def test_relational_losses_do_not_depend_on_a_rotation(name: str, seed: int) -> None:
    student, teacher = directions(seed), directions(seed + 1)
    turn = torch.linalg.qr(directions(seed + 2, 5, 5))[0]
    assert call(name, student @ turn, teacher).item() == pytest.approx(call(name, student, teacher).item(), rel=1e-4)


TEXTS = st.text(max_size=60) | st.sampled_from(
    [
        "'",
        'Parser key "a":',
        "Expected a <class 'int'>",
        "Given value: ",
        "invalid choice: 'x' (choose from a, b)",
        "\n",
    ]
)


@QUICK
@given(text=st.text(max_size=40), choices=st.lists(st.text(max_size=20), max_size=15))
def test_nearest_returns_only_choices(text: str, choices: list[str]) -> None:
    said = nearest(text, choices)
    assert said == "" or said.startswith(("; nearest: ", "; choices: "))
    assert bool(said) <= bool(choices)
    if text in choices:
        assert text in said


@settings(QUICK, max_examples=300)
@given(parts=st.lists(TEXTS, max_size=8), options=st.sets(st.text(max_size=20), max_size=5))
def test_explain_never_raises(parts: list[str], options: set[str]) -> None:
    assert isinstance(explain(" ".join(parts), options), str)


@settings(QUICK, max_examples=200)
@given(text=st.text(max_size=200))
def test_any_text_is_yaml_or_raises_a_yaml_error(text: str) -> None:
    with contextlib.suppress(yaml.YAMLError):
        check_yaml(text)


@settings(QUICK, max_examples=100)
@given(text=st.text(max_size=200))
def test_redacting_twice_is_redacting_once(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)


@QUICK
@given(
    value=st.text() | st.floats() | st.integers() | st.none() | st.binary() | st.booleans(), most=st.integers(3, 200)
)
def test_values_of_any_type_are_printed_or_rejected(value: object, most: int) -> None:
    line = printable(value, most)
    assert len(line) <= most
    assert line.isprintable()
    taken = number(value)
    assert taken is None or (math.isfinite(taken) and abs(taken) <= MAX_MAGNITUDE)
    array = finite_array([value, value], None)
    assert array is None or array.shape == (2,)


@QUICK
@given(
    seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**6), low=st.integers(0, 10**7), count=st.integers(1, 300)
)
def test_keys(seed: int, epoch: int, low: int, count: int) -> None:
    keys = randomness.sample_keys(seed, epoch, torch.arange(low, low + count))
    assert len(keys.unique()) == count
    drawn = randomness.uniform(keys, 0)
    assert ((randomness.integers(keys, 7) >= 0) & (randomness.integers(keys, 7) < 7)).all()
    shares = randomness.beta(keys, 0.3, 0.3)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert torch.equal(
        drawn, randomness.uniform(randomness.sample_keys(seed, epoch, torch.arange(low, low + count)), 0)
    )


@QUICK
@given(
    epochs=st.integers(1, 50),
    steps=st.integers(1, 20),
    warmup=st.floats(0, 60),
    start=st.floats(0, 1),
    rate=st.floats(1e-6, 10),
)
def test_schedules_are_finite_and_not_negative(
    epochs: int, steps: int, warmup: float, start: float, rate: float
) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=rate)
    schedule = optim.WarmupCosine(optimizer, warmup_epochs=warmup, warmup_from=start)
    schedule.begin(lambda: optim.Length(epochs, math.inf, steps))
    parameter.grad = torch.zeros(1)
    for _ in range(epochs * steps):
        (now,) = schedule.get_last_lr()
        assert math.isfinite(now)
        assert -1e-12 <= now <= rate * (1 + 1e-9)
        optimizer.step()
        schedule.step()


@QUICK
@given(
    size=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 1000),
    world=st.integers(1, 5),
    shuffle=st.booleans(),
)
def test_samplers_cover(size: int, seed: int, epoch: int, world: int, shuffle: bool) -> None:
    assert sorted(randomness.permutation(size, seed, epoch).tolist()) == [*range(size)]
    rows, lengths = [], set()
    for rank in range(world):
        sampler = EpochSampler(size, seed=seed, shuffle=shuffle, rank=rank, world=world)
        sampler.set_epoch(epoch)
        places = [*sampler]
        assert len(places) == len(sampler)
        assert {place[0] for place in places} <= {epoch}
        rows += [place[1] for place in places]
        lengths.add(len(places))
    assert len({*rows}) == len(rows)
    if shuffle:
        assert len(lengths) == 1
        assert len(rows) == size // world * world
    else:
        assert sorted(rows) == [*range(size)]
