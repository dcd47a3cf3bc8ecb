"""Times of calls that take turns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from rich.progress import track

Key = TypeVar("Key", bound=Hashable)


def interleaved(
    calls: dict[Key, Callable[[], Any]], rounds: int, title: str
) -> dict[Key, list[float]]:
    """Milliseconds of each call in each round, after one that is not counted.

    All take turns in every round, in an order of its own, so that what slows a machine down for a
    while slows them alike; a call returns when its work is done.
    """
    shuffle = random.Random(0).sample
    times: dict[Key, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()
    for _ in track(range(rounds), title, transient=True):
        for key in shuffle(list(calls), len(calls)):
            start = time.perf_counter()
            calls[key]()
            times[key].append(1e3 * (time.perf_counter() - start))
    return times
