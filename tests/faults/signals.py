"""signals: timers interrupt calls of a layer at any time, or call it themselves; run by test_interrupts.

python signals.py interrupt|handler [repeats]: for each kind of layer prints how many signals came in the midst of a
call, how many batches were taken nevertheless, and what was found wrong.
"""

import faulthandler
import json
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from hazards import KINDS, layer_of

import cbn

RNG = np.random.default_rng(0)
BATCHES = [RNG.standard_normal((24, 16, 20, 20), dtype=np.float32) + i for i in range(2)]


def of_layer(kind):
    return (
        lambda: layer_of(kind, 16),
        lambda layer, i: layer(BATCHES[i % 2]),
        lambda layer: {name: value.tobytes() for name, value in layer.state_dict().items()},
    )


def recomputed():
    def run(layer, i):
        cbn.recompute_statistics(layer, BATCHES[: 1 + i % 2], progress=False)

    return lambda: layer_of("plain", 16), run, of_layer("plain")[2]


def fitted():
    moments = lambda normalizer: [np.asarray(v).tobytes() for v in normalizer.moments.to_dict().values()]  # noqa: E731
    return lambda: cbn.FeatureNormalizer().fit(BATCHES[0]), lambda n, i: n.partial_fit(BATCHES[i % 2]), moments


CASES = {**{kind: of_layer(kind) for kind in KINDS}, "recompute": recomputed(), "features": fitted()}


def lasting(call, objects):
    start = time.perf_counter()
    call(objects, 0)
    return time.perf_counter() - start


def rounds(repeats, signals):
    """So many, and more as long as none of the signals came in time."""
    for i in range(100 * repeats):
        if i >= repeats and signals:
            return
        yield i


def interrupted(make, call, state, repeats):
    """Calls that KeyboardInterrupt ends; a twin takes the same batches in peace."""
    objects, twin, wrong, signals, taken = make(), make(), [], [], 0
    longest = 1.1 * min(lasting(call, make()) for _ in range(3))
    for i in rounds(repeats, signals):
        before = state(objects)
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, longest))
            call(objects, i)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            signals.append(i)
        now = state(objects)
        call(twin, i)
        if now == before and now != state(twin):
            call(objects, i)
            now = state(objects)
        else:
            taken += 1
        if now != state(twin):
            wrong.append(i)
            objects, twin = make(), make()
    return {"signals": len(signals), "taken": taken, "wrong": wrong}


def handled(make, call, state, repeats):
    """Calls during which a handler looks at the same objects, again and again: it must see whole states only."""
    objects, twin, wrong, signals = make(), make(), [], []
    longest = min(1e-3, *(lasting(call, make()) for _ in range(3)))

    def look(*_):
        seen.append(state(objects))
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-3))

    signal.signal(signal.SIGALRM, look)
    for i in rounds(repeats, signals):
        seen = []
        allowed = [state(twin)]
        call(twin, i)
        allowed.append(state(twin))
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, longest))
        call(objects, i)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signals += seen
        if any(one not in allowed for one in seen) or state(objects) != allowed[1]:
            wrong.append(i)
    return {"signals": len(signals), "wrong": wrong}


def interrupt(*_):
    raise KeyboardInterrupt


def main(what, repeats="40"):
    faulthandler.dump_traceback_later(600, exit=True)  # a deadlock
    random.seed(0)
    answers = {}
    for kind, (make, call, state) in CASES.items():
        if what == "interrupt":
            signal.signal(signal.SIGALRM, interrupt)
            answers[kind] = interrupted(make, call, state, int(repeats))
        else:
            answers[kind] = handled(make, call, state, int(repeats))
    signal.signal(signal.SIGALRM, signal.SIG_IGN)  # the last handler may have set the timer again
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
