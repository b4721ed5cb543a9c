"""timing: contenders take turns, so that a slow phase of the machine hits all of them."""

import math
import time
from dataclasses import dataclass

import numpy as np

SHORTEST_SAMPLE = 2e-3  # seconds; faster calls are timed several at a time
SECONDS = 0.4  # for each contender, untimed calls included
FEWEST_ROUNDS = 3
# Idle threads of a runtime may spin for some milliseconds after a call, on CPUs that the next contender needs.
PAUSE = 1e-3
LONGEST_WAIT = 0.2


@dataclass
class Samples:
    """Seconds per call, one value per round; NaN in rounds that a slow contender sat out."""

    seconds: np.ndarray
    calls_per_sample: int

    @property
    def median(self):
        return float(np.nanmedian(self.seconds))

    def summary(self):
        low, middle, high = np.nanquantile(self.seconds, [0.25, 0.5, 0.75])
        return {
            "median": float(middle),
            "quartiles": [float(low), float(high)],
            "least": float(np.nanmin(self.seconds)),
            "rounds": int(np.isfinite(self.seconds).sum()),
            "calls_per_sample": self.calls_per_sample,
        }


def ratio(one, other):
    """The median of one's times over the other's, taken between neighbours in time."""
    return float(np.nanmedian(one.seconds / other.seconds))


def _sample(call, number):
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


def settle():
    """Sleep until no thread of this process is spinning any more."""
    end = time.perf_counter() + LONGEST_WAIT
    while time.perf_counter() < end:
        start, burnt = time.perf_counter(), time.process_time()
        time.sleep(PAUSE)
        if time.process_time() - burnt < 0.3 * (time.perf_counter() - start):
            return


def measure(calls, repeats):
    """Return the Samples of each call, by its name. Each timed sample follows an untimed one of the same length."""
    first = {name: min(_sample(call, 1), _sample(call, 1)) for name, call in calls.items()}
    number = {name: max(1, math.ceil(SHORTEST_SAMPLE / t)) for name, t in first.items()}
    # a slow contender takes part in every second or third round, and so on
    stride = {}
    for name, t in first.items():
        rounds = max(FEWEST_ROUNDS, SECONDS / (2 * t * number[name]))
        stride[name] = max(1, round(repeats / rounds))
    seconds = {name: np.full(repeats, np.nan) for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            if turn % stride[name] == 0:
                settle()
                _sample(call, number[name])
                seconds[name][turn] = _sample(call, number[name])
    return {name: Samples(seconds[name], number[name]) for name in calls}
