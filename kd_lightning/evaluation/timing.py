"""How long calls take, side by side."""

import random
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any


def medians(calls: Sequence[Callable[[], Any]], repeats: int, *, warm: int = 3) -> list[float]:
    """The median seconds of each call. They take turns, in an order that changes, so that what else the
    machine does falls on all of them.

    Args:
        calls: each returns when its work is done.
        repeats: how often each is timed.
        warm: turns before those, not timed.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    order = random.Random(0)
    for turn in range(-warm, repeats):
        for place in order.sample(range(len(calls)), len(calls)):
            begun = time.perf_counter()
            calls[place]()
            if turn >= 0:
                seconds[place].append(time.perf_counter() - begun)
    return [median(taken) for taken in seconds]
