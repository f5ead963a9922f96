"""Calls that are timed in turns."""

import time
from collections import Counter

from kd_lightning.evaluation.timing import medians


def test_each_is_called_as_often_and_the_slow_one_is_slow() -> None:
    calls: list[str] = []

    def quick() -> None:
        calls.append("quick")

    def slow() -> None:
        calls.append("slow")
        time.sleep(0.01)

    seconds = medians([quick, slow], 6, warm=2)
    assert Counter(calls) == {"quick": 8, "slow": 8}
    assert seconds[0] < 0.005 < 0.01 <= seconds[1]
    turns = [calls[place : place + 2] for place in range(0, 16, 2)]
    assert {tuple(turn) for turn in turns} == {("quick", "slow"), ("slow", "quick")}
