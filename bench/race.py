"""The loop of every race: contestants take turns, so that a busy machine slows all of them alike."""

import json
import statistics
import time
from collections.abc import Callable

import torch


def race(
    workload: str, contestants: dict[str, Callable[[], object]], *, rounds: int, steps: int = 1, warm: int = 1
) -> None:
    """Times all contestants in turn, and reports; the first `warm` rounds do not count."""
    seconds = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, do in contestants.items():
            start = time.perf_counter()
            for _ in range(steps):
                do()
            seconds[name].append((time.perf_counter() - start) / steps)
    report(workload, {name: times[warm:] for name, times in seconds.items()})


def report(workload: str, seconds: dict[str, list[float]]) -> None:
    """Prints one JSON line a contestant, against "gmlib" in the same round.

    A ratio says how many times longer the peer takes.
    """
    for name, times in seconds.items():
        ratios = [theirs / ours for ours, theirs in zip(seconds["gmlib"], times, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        result = {"workload": workload, "peer": name, "torch": torch.__version__}
        result |= {"milliseconds": round(1e3 * statistics.median(times), 2)}
        result |= {"peer / gmlib": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}
        print(json.dumps(result), flush=True)
