"""soak: training and serving in one process: results right to the end, no memory lost: tests/soak.py --minutes 10

Training threads have layers of their own, of random options, shapes, dtypes and layouts, and share one layer and one
FeatureNormalizer. Serving threads share a layer in evaluation mode, whose state is replaced again and again by that of
checkpoints, each of which says in every array which one it is. In between there are wrong calls and forks.
"""

import argparse
import ctypes
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
from cases import LAYOUTS

import cbn

CHANNELS = 16  # of the layer that serves
CHECKPOINTS = 35  # that differ
PROBE = 5.0  # the first sample of what is served: its y shows whose state it was
SHORT, SHORT_MB = 100, 64  # samples of a run that shows little of memory, and what is allowed there
LIBC = ctypes.CDLL(None)
MOST = {"MB": 16, "files": 3, "threads": 3}  # by which the least of the last quarter may exceed that of the second
DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)
CHECKED = 12  # every so many calls are held against the oracle
HANGS = 60  # seconds


class Soak:
    """What the threads share: when to stop, the figures, and what went wrong."""

    def __init__(self, seconds, folder):
        self.end, self.folder = time.monotonic() + seconds, Path(folder)
        self.figures, self.failures, self.lock = Counter(), [], threading.Lock()
        self.serving, self.trained = cbn.BatchNorm(CHANNELS, eps=0.0).eval(), cbn.BatchNorm(8)
        self.normalizer = cbn.FeatureNormalizer()
        self.states = [numbered(k) for k in range(CHECKPOINTS)]
        probe = np.full((1, CHANNELS), PROBE, np.float32)
        self.probes = np.concatenate([served_alone(state, probe) for state in self.states])
        self.serving.load_state_dict(self.states[0])

    def count(self, name, number=1):
        with self.lock:
            self.figures[name] += number

    def hold(self, holds, what):
        """Note a failure, unless it holds."""
        if not holds:
            with self.lock:
                self.figures["failures"] += 1
                self.failures.append(what)

    def repeat(self, work, seed):
        """What a thread does: the work until the time is over; an error that is not expected is a failure."""
        rng = np.random.default_rng(seed)
        while time.monotonic() < self.end:
            try:
                work(self, rng)
            except Exception:
                self.hold(False, traceback.format_exc())


# --- serving ---


def numbered(k):
    """The state of the k-th checkpoint. All its numbers are exact in float32, and so is what they make of x."""
    layer, channels = cbn.BatchNorm(CHANNELS, eps=0.0), np.arange(CHANNELS)
    layer.weight[...], layer.bias[...] = 2.0 ** (k % 7) * (channels + 1), 3 * k + 1 - channels
    layer.running_mean[...], layer.running_var[...] = k + channels, 4.0 ** (k % 5)
    layer.num_batches_tracked[...] = k
    return layer.state_dict()


def served_alone(state, x):
    arrays = (state[name] for name in ("running_mean", "running_var", "weight", "bias"))
    return cbn.batch_norm(x, *arrays, eps=0.0, num_threads=1)


def serve(soak, rng):
    """One request: its y is that of one checkpoint, by bits."""
    spatial = [(), (7, 7), (64,), (33, 31)][rng.integers(4)]
    x = rng.standard_normal((rng.integers(1, 24), CHANNELS, *spatial), dtype=np.float32)
    x[0] = PROBE
    y = soak.serving(x, out=np.empty_like(x) if rng.integers(2) else None)
    soak.count("served")
    first = y[0].reshape(CHANNELS, -1)
    found = np.flatnonzero((soak.probes == first[:, 0]).all(axis=1))
    if found.size == 0:
        soak.count("torn")
        soak.hold(False, "a served result of no one checkpoint")
    elif rng.integers(CHECKED) == 0:
        soak.count("held against a serial call")
        soak.hold(np.array_equal(y, served_alone(soak.states[found[0]], x)), "served bits differ from a serial call")


def reload(soak, rng):
    """Save a checkpoint as a trainer does, and load it as a service does, while others serve."""
    k = int(rng.integers(CHECKPOINTS))
    path = soak.folder / f"checkpoint{('.npz', '.safetensors')[rng.integers(2)]}"
    layer = cbn.BatchNorm(CHANNELS, eps=0.0)
    layer.load_state_dict(soak.states[k])
    layer.save(path)
    state = cbn.BatchNorm.load(path).state_dict()
    soak.hold(
        all(np.array_equal(state[name], soak.states[k][name]) for name in state), "a checkpoint came back changed"
    )
    soak.serving.load_state_dict(state)
    soak.count("reloads")
    time.sleep(rng.uniform(0, 0.05))


# --- training ---


def random_layer(rng, channels):
    """A layer of options that go together."""
    options = {"dtype": DTYPES[rng.integers(4)], "activation": (None, "relu", "leaky_relu")[rng.integers(3)]}
    options["convention"] = ("torch", "keras", "onnx", "flax", "paper", "lecture")[rng.integers(6)]
    options |= ({}, {"virtual_batch_size": 3}, {"renorm": True}, {"zero_debias": True}, {"bias": False})[
        rng.integers(5)
    ]
    return cbn.BatchNorm(channels, eps=1e-5, nonfinite=("propagate", "raise", "skip")[rng.integers(3)], **options)


def random_input(rng, dtype, channels):
    spatial = tuple(rng.integers(1, 9, rng.integers(4)))
    if rng.integers(3) == 0:
        spatial = (64, 64)  # enough for several threads
    x = rng.standard_normal((int(rng.integers(4, 12)), channels, *spatial)).astype(dtype)
    return LAYOUTS[list(LAYOUTS)[rng.integers(len(LAYOUTS))]](x, 1)


def train(soak, rng):
    """A life of a layer: some batches, of which some are checked, wrong ones, and a file at its end."""
    channels = int(rng.integers(1, 12))
    layer = random_layer(rng, channels)
    for _ in range(rng.integers(1, 2 * CHECKED)):
        x = random_input(rng, layer.dtype, channels)
        mask = None
        if rng.integers(4) == 0 and not layer.virtual_batch_size:  # a ghost batch might be left with one value
            mask = rng.random((x.shape[0], *x.shape[2:])) < 0.8
            mask[:2] = True
        y = layer(x, mask=mask)
        dx = layer.backward(np.ones_like(y))
        soak.hold(dx.shape == x.shape and np.isfinite(y).all(), "a y that is not finite")
        soak.count("trained")
        few = layer.dtype == np.float64 and x[0, 0].size < 6  # so that dx may be little but rounding
        if rng.integers(CHECKED) == 0 and not few:
            soak.count("held against the oracle")
            layer.check(x, mask=mask)  # raises
        if rng.integers(6) == 0:
            wrong(soak, rng, layer, x)
    same_bits(soak, rng)
    shared(soak, rng)
    path = soak.folder / f"{threading.get_ident()}.npz"
    layer.save(path)
    same = cbn.BatchNorm.load(path).running_var.tobytes() == layer.running_var.tobytes()
    soak.hold(same, "a file came back changed")


def wrong(soak, rng, layer, x):
    """A call that must raise, and change nothing."""
    before = layer.state_dict()
    calls = (
        lambda: layer(x[:, :0]),
        lambda: layer(x.astype(object)),
        lambda: layer(x, out=np.empty(3)),
        lambda: layer(x, mask=np.ones(7777, bool)),
        lambda: layer.backward(np.ones(3)),
        lambda: layer.load_state_dict({**before, "running_var": np.full(layer.num_features, -1.0)}),
        lambda: layer.load_state_dict({}),
        lambda: layer.save(soak.folder / "x.pt"),
        lambda: cbn.BatchNorm.load(soak.folder / "none.npz"),
    )
    try:
        calls[rng.integers(len(calls))]()
        soak.hold(False, "a wrong call passed")
    except (TypeError, ValueError, FileNotFoundError):
        soak.count("errors")
    after = layer.state_dict()
    soak.hold(all(after[name].tobytes() == before[name].tobytes() for name in before), "a wrong call changed a layer")


def same_bits(soak, rng):
    """Training with some threads and with one."""
    x = rng.standard_normal((16, 8, 96, 96), dtype=np.float32)
    results = [cbn.batch_norm_forward(x, num_threads=n) for n in (1, int(rng.integers(2, 6)))]
    soak.hold(all(map(np.array_equal, *results)), "the number of threads changed bits")
    soak.count("held against a serial call")


def shared(soak, rng):
    """A layer and a normalizer that all threads train: at the end no batch may be missing."""
    x = rng.standard_normal((6, 8, 5), dtype=np.float32)
    soak.trained(x)
    soak.normalizer.partial_fit(x)
    soak.count("trained together")


# --- forks, samples, the end ---


def fork(soak):
    """A child, which serves, also with threads, and ends within a minute."""
    x = np.full((32, CHANNELS, 64, 64), PROBE, np.float32)
    child = os.fork()
    if not child:
        signal.alarm(HANGS)
        status = 1
        try:
            own = cbn.BatchNorm(CHANNELS, eps=0.0).eval()
            own.load_state_dict(soak.states[3])
            y = cbn.batch_norm(x, own.running_mean, own.running_var, own.weight, own.bias, eps=0.0, num_threads=2)
            fits = [np.array_equal(z[0, :, 0, 0], soak.probes[3]) for z in (own(x), y)]
            soak.serving(x)  # with whatever state it had at the fork, perhaps in the midst of a reload
            status = 0 if all(fits) else 2
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    soak.count("forks")
    soak.hold(status == 0, f"a forked child ended with status {status}")


def sample():
    if hasattr(LIBC, "malloc_trim"):  # what is free, but kept by the C library, is no leak
        LIBC.malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    memory, files = int(status["VmRSS"].split()[0]) / 1024, len(os.listdir("/proc/self/fd"))
    return {"MB": round(memory, 1), "files": files, "threads": int(status["Threads"])}


def watch(soak, interval):
    """Fork and take samples until the end; return the samples."""
    samples, began = [], time.monotonic()
    while time.monotonic() < soak.end:
        fork(soak)
        samples.append(sample())
        done = min(100, 100 * (time.monotonic() - began) / (soak.end - began))
        figures = ", ".join(f"{name} {soak.figures[name]}" for name in ("trained", "served", "forks", "failures"))
        print(f"{done:3.0f} %  {figures}, {samples[-1]['MB']:.0f} MB", file=sys.stderr, flush=True)
        time.sleep(interval * random.uniform(0.5, 1.5))
    return samples


def check_flat(soak, samples):
    """Hold the least of the last and of the second quarter of the samples against each other."""
    quarter = max(len(samples) // 4, 1)
    most = MOST | ({"MB": SHORT_MB} if len(samples) < SHORT else {})
    for name in MOST:
        before, after = (min(s[name] for s in part) for part in (samples[quarter : 2 * quarter], samples[-quarter:]))
        soak.figures[f"{name} in the second quarter"], soak.figures[f"{name} in the last quarter"] = before, after
        soak.hold(after - before <= most[name], f"{name} grew from {before} to {after}; {most[name]} more are allowed")


def check_end(soak):
    batches = soak.figures["trained together"]
    soak.hold(int(soak.trained.num_batches_tracked) == batches, "the shared layer lost batches")
    soak.hold(batches == 0 or soak.normalizer.moments.count == 30 * batches, "the shared normalizer lost batches")
    soak.hold(batches == 0 or np.abs(soak.trained.running_var - 1).max() < 1, "the shared layer's variances are off")
    soak.trained.check(np.random.default_rng(0).standard_normal((6, 8, 5), dtype=np.float32))
    left = sorted(path.name for path in soak.folder.iterdir() if path.name.startswith(".cbn-"))
    soak.hold(not left, f"temporary files were left: {left}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(60 * options.minutes, folder)
        works = [train] * 3 + [serve] * 3 + [reload]
        threads = [threading.Thread(target=soak.repeat, args=(w, [options.seed, i])) for i, w in enumerate(works)]
        for thread in threads:
            thread.start()
        samples = watch(soak, min(2.0, 60 * options.minutes / 40))
        for thread in threads:
            thread.join()
        check_flat(soak, samples)
        check_end(soak)
    soak.figures["peak MB"] = round(max(s["MB"] for s in samples), 1)
    for name, value in sorted(soak.figures.items()):
        print(f"{name}: {value}")
    for what, number in Counter(soak.failures).most_common(10):
        print(f"FAILED {number} times: {what}")
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
