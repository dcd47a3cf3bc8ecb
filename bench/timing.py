"""Times of calls that take turns."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from rich.progress import track

Key = TypeVar("Key", bound=Hashable)


def interleaved(
    calls: dict[Key, Callable[[], Any]], rounds: int, title: str = "", shortest: float = 0.0
) -> dict[Key, list[float]]:
    """Milliseconds of each call in each round, after some that are not counted.

    All take turns in every round, in an order of its own, so that what slows a machine down for a
    while slows them alike; a call returns when its work is done. One that takes less than
    `shortest` milliseconds is made several times in its turn.
    """
    shuffle = random.Random(0).sample
    times: dict[Key, list[float]] = {key: [] for key in calls}
    counts = {key: _calls_in_a_turn(call, shortest) for key, call in calls.items()}
    turns = range(rounds)
    for _ in track(turns, title, transient=True) if title else turns:
        for key in shuffle(list(calls), len(calls)):
            times[key].append(_milliseconds(calls[key], counts[key]))
    return times


def _milliseconds(call: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return 1e3 * (time.perf_counter() - start) / count


def _calls_in_a_turn(call: Callable[[], Any], shortest: float) -> int:
    call()
    once = _milliseconds(call, 1) if shortest else 1.0
    return max(1, round(shortest / once))


def ratios(times: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios of the rounds, and their quartiles."""
    each = [mine / theirs for mine, theirs in zip(times, others, strict=True)]
    low, median, high = statistics.quantiles(each, n=4, method="inclusive")
    return median, low, high
