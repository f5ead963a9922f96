"""PKT: golden value, a reference with two loops, and its invariances."""

import math

import pytest
from helpers.golden import student, teacher

from kd_lightning.methods.pkt import pkt_loss


def test_golden_value() -> None:
    assert pkt_loss(student(6, 5), teacher(6, 8)).item() == pytest.approx(
        0.0205272062, rel=1e-5
    )  # the code of this value adds 1e-7 to each norm


def test_a_double_loop() -> None:
    def row(rows: list[list[float]], i: int) -> list[float]:
        def cosine(a: list[float], b: list[float]) -> float:
            return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

        likeness = [(1 + cosine(rows[i], other)) / 2 for other in rows]
        return [each / sum(likeness) for each in likeness]

    ours, theirs = student(7, 3), teacher(7, 4)
    terms = []
    for i in range(7):
        pairs = zip(row(theirs.tolist(), i), row(ours.tolist(), i), strict=True)
        terms += [p * math.log((p + 1e-7) / (q + 1e-7)) for p, q in pairs]
    assert pkt_loss(ours, theirs).item() == pytest.approx(sum(terms) / 49, rel=1e-12)


def test_each_samples_length_does_not_matter() -> None:
    theirs = teacher(6, 4)
    assert pkt_loss(theirs * teacher(6, 1).abs(), theirs).abs() < 1e-12
    assert pkt_loss(theirs + 1, theirs) > 1e-4  # a shift of all vectors changes the loss
