"""allocations: each allocation of each call fails in turn; run by test_memory_faults with the hooks preloaded.

python allocations.py [--but PATTERN]: prints a line of JSON for each case. Every Python object counts
(PYTHONMALLOC=malloc), so nothing of NumPy, CPython and cbn is left out but what libgomp allocates, which ends the
process by its own doing.
"""

import copy
import ctypes
import gc
import json
import os
import pickle
import re
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import cbn

F32 = np.float32
RNG = np.random.default_rng(0)
X, DY, BAD = (RNG.standard_normal((8, 3)).astype(F32) for _ in range(3))
BAD[2, 1] = np.nan
LARGE = RNG.standard_normal((60, 4, 40, 41)).astype(F32)  # for two threads
MASK, WEIGHTS = np.arange(8) != 3, np.linspace(0.5, 2, 8)
THREE, LINE = np.linspace(0.5, 1.5, 3), np.linspace(0.5, 1.5, 3).astype(F32)
IMAGES = RNG.integers(0, 256, (2, 5, 6, 3), np.uint8)
KERNEL = RNG.standard_normal((3, 3, 2, 2)).astype(F32)
TEMPORARY = tempfile.TemporaryDirectory()
FOLDER = Path(TEMPORARY.name)
KINDS = {
    "plain": {},
    "relu": {"activation": "relu"},
    "average": {"momentum": None},
    "debiased": {"zero_debias": True},
    "deviation": {"convention": "lecture"},
    "half": {"dtype": np.float16},
    "raise": {"nonfinite": "raise"},
    "skip": {"nonfinite": "skip"},
    "frozen": {"frozen": True},
    "ghosts": {"virtual_batch_size": 4},
    "ghosts-raise": {"virtual_batch_size": 4, "nonfinite": "raise"},
    "renorm": {"renorm": True},
    "renorm-skip": {"renorm": True, "nonfinite": "skip"},
    "outside": {"convention": "notes"},
}


def layer_of(kind, trained=True, **options):
    layer = cbn.BatchNorm(3, **KINDS[kind], **options)
    if trained and kind != "outside":
        layer((2 * X + 1).astype(layer.dtype), residual=X.astype(layer.dtype))
    return layer


def plain(value):
    """What two states are compared by: every bit of every array, and what refers to what."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, cbn.BatchNorm):
        own = {"_collect": None, **vars(value)}  # of the class until the first run of recompute_statistics
        return {name: (id(part) if name == "_saved" else plain(part)) for name, part in own.items()}
    if isinstance(value, cbn.Moments):
        return plain([value.count, value.mean, value.m2])
    if isinstance(value, cbn.FeatureNormalizer):
        return plain(value.moments)
    if type(value).__name__ == "RLock":
        return repr(value).startswith("<unlocked")
    return repr(value)


def results(value):
    """Of a call that got through: without what is an address."""
    if isinstance(value, cbn.BatchNorm):
        return plain(value.state_dict())
    if isinstance(value, dict | list | tuple):
        return [results(part) for part in (value.values() if isinstance(value, dict) else value)]
    return plain(value) if isinstance(value, np.ndarray | cbn.Moments | float | int) else type(value).__name__


def functions():
    """name: what makes the objects that must stay whole, and the call with them."""
    running = lambda: (np.zeros(3), np.ones(3))  # noqa: E731
    y, mean, inv_std = cbn.batch_norm_forward(X, LINE, LINE, activation="relu")
    norm = layer_of("plain").eval()
    cases = {
        "batch_norm": (running, lambda r: cbn.batch_norm(X, *r, LINE, LINE, True)),
        "batch_norm-large": (
            lambda: (np.zeros(4), np.ones(4)),
            lambda r: cbn.batch_norm(LARGE, *r, training=True, num_threads=2),
        ),
        "batch_norm-all": (
            running,
            lambda r: cbn.batch_norm(
                X, *r, LINE, LINE, True, activation="relu", residual=DY, mask=MASK, sample_weight=WEIGHTS
            ),
        ),
        "inference": (running, lambda r: cbn.batch_norm(X, *r, LINE, LINE, residual=DY, activation="leaky_relu")),
        "inference-copied": (running, lambda r: cbn.batch_norm(X.T, *r, axis=0)),
        "forward": (lambda: 0, lambda _: cbn.batch_norm_forward(X.astype(">f4"), LINE, mask=MASK)),
        "backward": (
            lambda: 0,
            lambda _: cbn.batch_norm_backward(
                DY, X, mean, inv_std, LINE, activation="relu", y=y, residual=True, sample_weight=WEIGHTS
            ),
        ),
        "backward-large": (
            lambda: 0,
            lambda _: cbn.batch_norm_backward(LARGE, LARGE, np.zeros(4), np.ones(4), num_threads=2),
        ),
        "double_backward": (
            lambda: 0,
            lambda _: cbn.batch_norm_double_backward(X, LINE, LINE, DY, X, mean, inv_std, LINE),
        ),
        "moments": (lambda: 0, lambda _: cbn.moments(X, mask=MASK, sample_weight=WEIGHTS)),
        "update_running": (
            lambda: [running(), cbn.moments(X)],
            lambda s: cbn.update_running(*s[0], s[1], 0.5, unbiased=False),
        ),
        "normalize_images": (lambda: 0, lambda _: cbn.normalize_images(IMAGES, THREE, THREE, layer=norm)),
        "fold_conv": (lambda: norm, lambda n: cbn.fold_conv(KERNEL, None, n)),
        "fold_linear": (lambda: norm, lambda n: cbn.fold_linear(KERNEL[:, :, 0, 0], LINE, n, following=True)),
        "fold_affine": (lambda: norm, lambda n: cbn.fold_affine(n, n)),
        "convert": (lambda: norm, lambda n: cbn.convert(n, "keras")),
        "made": (lambda: 0, lambda _: cbn.BatchNorm(3, renorm=True)),
    }
    return cases


def of_layers():
    cases = {}
    for kind in KINDS:
        if kind != "outside":
            trained = lambda kind=kind: layer_of(kind)  # noqa: E731
            dtype = layer_of(kind).dtype
            x, dy = X.astype(dtype), DY.astype(dtype)
            cases[f"train {kind}"] = trained, lambda n, x=x: n(x)
            cases[f"backward {kind}"] = trained, lambda n, dy=dy: n.backward(dy)
        cases[f"eval {kind}"] = lambda kind=kind: layer_of(kind).eval(), lambda n: n(X.astype(n.dtype))
    for kind in ("plain", "ghosts", "renorm"):
        cases[f"train-all {kind}"] = (
            lambda kind=kind: layer_of(kind),
            lambda n: n(X, residual=DY, mask=MASK, sample_weight=WEIGHTS),
        )
        cases[f"reset {kind}"] = lambda kind=kind: layer_of(kind), lambda n: n.reset_parameters()
        cases[f"state_dict {kind}"] = lambda kind=kind: layer_of(kind), lambda n: n.state_dict()
        other = layer_of(kind)
        other(3 * X)
        state = other.state_dict()
        cases[f"load_state_dict {kind}"] = lambda kind=kind: layer_of(kind), lambda n, s=state: n.load_state_dict(s)
        cases[f"pickle {kind}"] = lambda kind=kind: layer_of(kind), lambda n: pickle.loads(pickle.dumps(n))
        cases[f"deepcopy {kind}"] = lambda kind=kind: layer_of(kind), copy.deepcopy
        cases[f"recompute {kind}"] = (
            lambda kind=kind: [layer_of(kind), layer_of("average")],
            lambda ns: cbn.recompute_statistics(ns, [X, DY], lambda x: [n(x) for n in ns], progress=False),
        )
        cases[f"affine_map {kind}"] = lambda kind=kind: layer_of(kind), lambda n: n.affine_map()
        cases[f"drift {kind}"] = lambda kind=kind: layer_of(kind), lambda n: n.drift(DY)
    kept, path = layer_of("renorm"), FOLDER / "layer.npz"
    kept.save(path)
    cases["save"] = lambda: layer_of("renorm"), lambda n: n.save(path)
    cases["load"] = lambda: 0, lambda _: cbn.BatchNorm.load(path)
    cases["convention"] = lambda: layer_of("plain"), lambda n: setattr(n, "convention", "keras")
    return cases


def of_moments():
    moments = lambda: [cbn.moments(X), cbn.moments(DY)]  # noqa: E731
    fitted = lambda **o: cbn.FeatureNormalizer(**o).fit(X)  # noqa: E731
    path = FOLDER / "moments.npz"
    cbn.moments(X).save(path)
    return {
        "merge": (moments, lambda m: m[0].merge(m[1])),
        "add": (moments, lambda m: m[0] + m[1]),
        "subtract": (moments, lambda m: m[0] + m[1] - m[1]),
        "update": (moments, lambda m: m[0].update(DY)),
        "moments pickle": (moments, lambda m: pickle.loads(pickle.dumps(m[0]))),
        "moments save": (moments, lambda m: m[0].save(path)),
        "moments load": (moments, lambda m: cbn.Moments.load(path)),
        "fit": (fitted, lambda n: n.fit(DY) and None),
        "partial_fit": (fitted, lambda n: n.partial_fit(BAD, sample_weight=WEIGHTS) and None),
        "transform": (fitted, lambda n: n.transform(DY)),
        "inverse_transform": (fitted, lambda n: n.inverse_transform(np.asfortranarray(DY))),
        "fit_transform": (fitted, lambda n: n.fit_transform(DY)),
    }


def cases():
    return functions() | of_layers() | of_moments()


def tried(hooks, make, call, first, say):
    """Make the allocations of a call fail, one after the other from the `first` on, and say what was found."""
    for _ in range(3):  # fills the caches
        objects = make()
        expected = results(call(objects))
    after, number, failed = plain_state(objects), first, True
    while failed:
        say(number)
        objects, wrong = make(), []
        before, got, error = plain(objects), None, None
        hooks.faults_fail_at(number)
        try:
            got = call(objects)
        except BaseException as e:
            error = e
        failed = hooks.faults_stop()
        if error is not None:
            if not isinstance(error, MemoryError):
                wrong.append(f"{type(error).__name__}: {error}")
            now = plain(objects)
            if now != before:
                wrong.append(f"{different(before, now)} changed, at {place(error)}")
            error = None
            if results(call(objects)) != expected:
                wrong.append("the next call differs")
        elif results(got) != expected:
            wrong.append("success with another result")
        if plain_state(objects) != after:
            wrong.append("another state in the end")
        say(number, failed, wrong)
        number += 1


def tell(file, *line):
    os.write(file, (json.dumps(line) + "\n").encode())


def followed(hooks, make, call):
    """`tried` in children, since NumPy and CPython may crash; returns the number of faults, findings, crashes."""
    faults, found, crashes, first, ended = 0, [], [], 1, False
    while not ended:
        child, parent = os.pipe(), os.pipe()
        pid = os.fork()
        if not pid:
            os.dup2(parent[1], 2)
            tried(hooks, make, call, first, partial(tell, child[1]))
            os._exit(0)
        os.close(child[1])
        os.close(parent[1])
        with os.fdopen(child[0]) as lines, os.fdopen(parent[0]) as errors:
            for line in map(json.loads, lines):
                number, *result = line
                if result:
                    faults, ended = faults + result[0], not result[0]
                    found += [f"{number}: {text}" for text in result[1]]
            text = errors.read()
        status = os.waitpid(pid, 0)[1]
        if os.WIFEXITED(status) and (status or not ended):
            raise RuntimeError(text)
        if status:
            crashes.append([number, [Path(line).name for line in text.splitlines() if line.startswith("in ")] or text])
            faults, first = faults + 1, number + 1
    return faults, found, crashes


def plain_state(objects):
    """What is the same each time."""
    if isinstance(objects, cbn.BatchNorm):
        return {key: value for key, value in plain(objects).items() if key != "_saved"}
    if isinstance(objects, list | tuple):
        return [plain_state(part) for part in objects]
    return plain(objects)


def different(before, now):
    if isinstance(before, dict):
        return [name for name in before if before[name] != now.get(name)]
    return "what was given"


def place(error):
    at, found = error.__traceback__, ""
    while at:
        found = f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}"
        at = at.tb_next
    return found


def main(but="^$"):
    hooks = ctypes.CDLL(None)
    hooks.faults_tell_crashes()
    gc.disable()
    for name, (make, call) in cases().items():
        if not re.search(but, name):
            print(json.dumps([name, *followed(hooks, make, call)]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[2:])
