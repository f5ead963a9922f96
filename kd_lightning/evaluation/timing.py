"""Comparison of the duration of several functions."""

import random
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any


def medians(calls: Sequence[Callable[[], Any]], repeats: int, *, warm: int = 3) -> list[float]:
    """Return the median seconds of each call.

    The calls are interleaved in random order, so that other load on the machine affects all of them.

    Args:
        calls: Functions to time. Each function must return only after its computation has finished.
        repeats: Number of timed rounds.
        warm: Number of untimed rounds before the timed rounds.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    order = random.Random(0)
    for turn in range(-warm, repeats):
        for place in order.sample(range(len(calls)), len(calls)):
            started = time.perf_counter()
            calls[place]()
            if turn >= 0:
                seconds[place].append(time.perf_counter() - started)
    return [median(seconds_of_call) for seconds_of_call in seconds]
