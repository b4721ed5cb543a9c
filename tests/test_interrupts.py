"""test_interrupts: a signal comes at any time: state is that before a batch or after it, and handlers may call, too."""

import dis
import faulthandler
import functools
import gc
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import filled
from hazards import KINDS, layer_of

import cbn

X, DY = filled((6, 3, 4), 1, np.float32), filled((6, 3, 4), 1, np.float32, seed=2)
BAD = X.copy()
BAD[2, 1, 1] = np.nan


class AtCheck:
    """Calls `come` where Python looks for signals for the n-th time: as functions begin, after calls, in loops."""

    def __init__(self, n, come):
        self.left, self.come, self.came, self.last = n, come, False, {}

    def __call__(self, frame, event, _):
        if self.came or frame.f_code.co_filename == __file__:
            return self
        frame.f_trace_opcodes = True
        if event == "opcode":
            name = operation(frame.f_code, frame.f_lasti)
            before, self.last[frame] = self.last.get(frame, "RESUME"), name
            if before.startswith("CALL") or before in ("RESUME", "JUMP_BACKWARD"):
                self.left -= 1
                if self.left == 0:
                    self.came = True
                    self.last.clear()
                    self.come()
        return self

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *error):
        sys.settrace(self.before)
        return error[0] is KeyboardInterrupt


@functools.cache
def operations(code):
    return code.co_code


@pytest.fixture(autouse=True)
def no_collection():
    """Callbacks of the garbage collector would be counted as parts of whatever call it comes into."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def operation(code, at):
    return dis.opname[operations(code)[at]]


def interrupt():
    raise KeyboardInterrupt


def state_of(objects):
    if isinstance(objects, cbn.BatchNorm):
        values = {**objects.state_dict(), "of its batches": objects._history}
    elif isinstance(objects, cbn.Moments):
        values = objects.to_dict()
    elif isinstance(objects, cbn.FeatureNormalizer):
        values = objects.moments.to_dict()
    else:
        return [state_of(part) for part in objects]
    return {name: np.asarray(value).tobytes() for name, value in values.items()}


def trained(kind, **options):
    layer = layer_of(kind, **options)
    layer(2 * X + 1, residual=X)
    return layer


STATE = trained("renorm").state_dict()
STATE["bias"] = STATE["bias"] + 1


CALLS = {
    **{f"train {kind}": (lambda kind=kind: trained(kind), lambda layer: layer(X)) for kind in KINDS},
    **{f"backward {kind}": (lambda kind=kind: trained(kind), lambda layer: layer.backward(DY)) for kind in KINDS},
    **{f"reset {kind}": (lambda kind=kind: trained(kind), lambda layer: layer.reset_parameters()) for kind in KINDS},
    "train raise": (lambda: trained("ghosts", nonfinite="raise"), lambda layer: layer(X, out=np.empty_like(X))),
    "load": (lambda: trained("renorm"), lambda layer: layer.load_state_dict(STATE)),
    "convention": (lambda: trained("plain"), lambda layer: setattr(layer, "convention", "keras")),
    "recompute": (
        lambda: [trained("plain"), trained("renorm").eval()],
        lambda layers: cbn.recompute_statistics(
            layers, [X, DY], lambda x: [layer(x) for layer in layers], progress=False
        ),
    ),
    "merge": (lambda: cbn.moments(X), lambda moments: moments.merge(cbn.moments(DY))),
    "update": (lambda: cbn.moments(X), lambda moments: moments.update(DY)),
    "fit": (lambda: cbn.FeatureNormalizer().fit(X), lambda normalizer: normalizer.fit(BAD)),
    "partial_fit": (lambda: cbn.FeatureNormalizer().fit(X), lambda normalizer: normalizer.partial_fit(BAD)),
}


def modes(objects):
    parts = objects if isinstance(objects, list) else [objects]
    return [layer.training for layer in parts if isinstance(layer, cbn.BatchNorm)]


def checks(make, call):
    """All, or of more than 150 these: the last 50, when states are written, and 100 of those before."""
    counted = AtCheck(10**9, interrupt)
    objects = make()
    with counted:
        call(objects)
    number = 10**9 - counted.left
    assert number > 2
    first = range(1, number - 49)
    return [
        *(first if len(first) <= 100 else random.Random(0).sample(first, 100)),
        *range(max(1, number - 49), number + 1),
    ]


early = pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="from 3.12 on CPython traces operations too late to know where it looks for signals",
)


@early
@pytest.mark.parametrize("name", CALLS)
def test_interrupted_at_every_check(name):
    make, call = CALLS[name]
    objects = make()
    before, mode = state_of(objects), modes(objects)
    call(objects)
    after = state_of(objects)
    for n in checks(make, call):
        objects = make()
        with AtCheck(n, interrupt) as signal:
            call(objects)
        now = state_of(objects)
        assert signal.came and now in (before, after) and modes(objects) == mode, n
        if now == before:
            call(objects)  # nothing is left locked or half done
        assert state_of(objects) == after, n


@early
@pytest.mark.parametrize("name", CALLS)
def test_looked_at_from_every_check(name):
    """As a signal handler does that saves the state of a layer before the process ends."""
    faulthandler.dump_traceback_later(120, exit=True)  # a lock that waits for itself
    make, call = CALLS[name]
    objects = make()
    before = state_of(objects)
    call(objects)
    after = state_of(objects)
    for n in checks(make, call):
        objects, seen = make(), []
        with AtCheck(n, lambda objects=objects, seen=seen: seen.append(state_of(objects))) as signal:
            call(objects)
        assert signal.came and all(one in (before, after) for one in seen) and state_of(objects) == after, n
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("what", ["interrupt", "handler"])
def test_signals(what):
    """Real ones, at any time of calls that last some milliseconds; .ci/full has more of them."""
    script = Path(__file__).parent / "faults" / "signals.py"
    run = subprocess.run(
        [sys.executable, script, what, os.environ.get("CBN_SIGNALS", "40")], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    for kind, answer in json.loads(run.stdout).items():
        assert answer["signals"] > 0 and answer["wrong"] == [], kind
