"""garbage: every attribute of cbn's objects replaced by what does not belong there, and every method called then.

python tests/garbage.py PART PARTS runs its part of all combinations, and prints each that has failed. A crash is seen
by who runs it.
"""

import copy
import itertools
import pickle
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

import cbn

X = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
OPTIONS = [
    {},
    {"momentum": None},
    {"zero_debias": True},
    {"renorm": True},
    {"virtual_batch_size": 2},
    {"frozen": True},
    {"nonfinite": "raise"},
    {"convention": "lecture", "nonfinite": "skip"},
    {"activation": "leaky_relu"},
    {"track_running_stats": False},
]


def read_only():
    array = np.ones(3, np.float32)
    array.flags.writeable = False
    return array


GARBAGE = {
    "None": lambda: None,
    "7": lambda: 7,
    "10**9": lambda: 10**9,
    "10**30": lambda: 10**30,
    "-1": lambda: -1,
    "0.5": lambda: 0.5,
    "nan": lambda: float("nan"),
    "text": lambda: "x",
    "list": lambda: [1, 2, 3],
    "dict": lambda: {"rmax": "x"},
    "function": lambda: len,
    "True": lambda: True,
    "empty": lambda: np.zeros(0, np.float32),
    "short": lambda: np.ones(2, np.float32),
    "long": lambda: np.ones(4, np.float32),
    "float64": lambda: np.ones(3),
    "int8": lambda: np.ones(3, np.int8),
    "objects": lambda: np.array([object(), None, "x"]),
    "complex": lambda: np.ones(3, complex),
    "read-only": read_only,
    "strided": lambda: np.ones(6, np.float32)[::2],
    "reversed": lambda: np.ones(3, np.float32)[::-1],
    "stride 0": lambda: np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (3,), (0,)),
    "2 dimensions": lambda: np.ones((3, 1), np.float32),
    "0 dimensions": lambda: np.array(1, np.float32),
    "counter": lambda: np.array(1),
    "negative counter": lambda: np.array(-1),
    "largest counter": lambda: np.array(2**63 - 1),
    "swapped": lambda: np.ones(3, np.float32).astype(">f4"),
    "misaligned": lambda: np.frombuffer(bytearray(13), np.uint8)[1:].view(np.float32),
    "masked": lambda: np.ma.masked_array(np.ones(3, np.float32), [1, 0, 0]),
    "structured": lambda: np.zeros(3, [("a", "f4")]),
    "texts": lambda: np.array(["a"] * 3),
    "not finite": lambda: np.array([np.nan, np.inf, -np.inf], np.float32),
    "negative": lambda: np.full(3, -1, np.float32),
    "two bytes": lambda: np.zeros(2, np.int8),
    "two doubles apart": lambda: np.zeros(4)[::2],
}
TEMPORARY = tempfile.TemporaryDirectory()
FOLDER = Path(TEMPORARY.name)
STATE = cbn.BatchNorm(3).state_dict()
LAYER_METHODS = {
    "call": lambda o: o.train()(X),
    "call with out": lambda o: o.train()(X, out=np.empty_like(X)),
    "evaluate": lambda o: o.eval()(X),
    "backward": lambda o: o.backward(X),
    "affine_map": lambda o: o.affine_map(),
    "repr": repr,
    "state_dict": lambda o: o.state_dict(),
    "load_state_dict": lambda o: o.load_state_dict(STATE),
    "load a dict": lambda o: o.load_state_dict(dict(STATE), strict=False),
    "save": lambda o: o.save(FOLDER / "x.npz"),
    "drift": lambda o: o.drift(X),
    "check": lambda o: o.check(X),
    "convention": lambda o: setattr(o, "convention", "keras"),
    "reset": lambda o: o.reset_parameters(),
    "copy": lambda o: copy.copy(o)(X),
    "pickle": lambda o: pickle.loads(pickle.dumps(o)).eval()(X),
    "convert": lambda o: cbn.convert(o, "keras"),
    "recompute": lambda o: cbn.recompute_statistics(o, [X]),
}
OTHER = cbn.moments(X)
MOMENTS_METHODS = {
    "add": lambda o: o + OTHER,
    "subtract": lambda o: OTHER - o,
    "merge": lambda o: o.merge(OTHER),
    "update": lambda o: o.update(X),
    "var": lambda o: o.var(),
    "repr": repr,
    "save": lambda o: o.save(FOLDER / "m.npz"),
    "to_dict": lambda o: o.to_dict(),
    "update_running": lambda o: cbn.update_running(np.zeros(3), np.ones(3), o, 0.5),
    "normalize": lambda o: cbn.FeatureNormalizer(moments=o).transform(X),
    "pickle": lambda o: pickle.loads(pickle.dumps(o)).var(),
    "drift": lambda o: cbn.BatchNorm(3).drift(o),
}
NORMALIZER_METHODS = {
    "fit": lambda o: o.fit(X),
    "partial_fit": lambda o: o.partial_fit(X),
    "transform": lambda o: o.transform(X),
    "inverse_transform": lambda o: o.inverse_transform(X),
    "fit_transform": lambda o: o.fit_transform(X),
    "moments": lambda o: o.moments,
    "scale": lambda o: o.scale,
    "repr": repr,
    "pickle": lambda o: pickle.loads(pickle.dumps(o)).transform(X),
}


def layer(options):
    made = cbn.BatchNorm(3, **options)
    made(X)
    return made


def combinations():
    """How the object is made, the name of an attribute, garbage, and a method."""
    for options in OPTIONS:
        names = [*vars(layer(options)), "_collect"]
        for name, method in itertools.product(names, LAYER_METHODS):
            yield lambda options=options: layer(options), name, LAYER_METHODS[method], f"{options} {name} {method}"
    for name, method in itertools.product(cbn.Moments.__slots__, MOMENTS_METHODS):
        yield lambda: cbn.moments(X), name, MOMENTS_METHODS[method], f"Moments {name} {method}"
    for name, method in itertools.product(cbn.FeatureNormalizer.__slots__, NORMALIZER_METHODS):
        yield lambda: cbn.FeatureNormalizer().fit(X), name, NORMALIZER_METHODS[method], f"normalizer {name} {method}"


def bits(value):
    if isinstance(value, list | tuple):
        return [bits(part) for part in value]
    return value.tobytes() if isinstance(value, np.ndarray) and not value.dtype.hasobject else repr(value)


def snapshot(value):
    """The bits of the arrays that an object has, and what else it has by its text."""
    if not isinstance(value, cbn.BatchNorm):
        return {name: bits(getattr(value, name)) for name in type(value).__slots__}
    return {
        name: bits(a)
        for name, a in vars(value).items()
        if name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "renorm_mean", "renorm_std")
    }


def main(part, parts):
    warnings.simplefilter("ignore")
    outcomes = {"passed": 0, "raised": 0, "failed": 0}
    for i, ((make, name, method, text), kind) in enumerate(itertools.product(combinations(), GARBAGE)):
        if i % parts != part:
            continue
        value = make()
        setattr(value, name, GARBAGE[kind]())
        before = snapshot(value)
        print(f"{text}: {kind}", file=sys.stderr)  # the last one is what crashed
        try:
            method(value)
            outcomes["passed"] += 1
        except (SystemError, MemoryError) as error:
            outcomes["failed"] += 1
            print(f"FAILED {text}: {kind}: {error!r}")
        except Exception:
            outcomes["raised"] += 1
            if snapshot(value) != before:
                outcomes["failed"] += 1
                print(f"FAILED {text}: {kind}: raised, and left the state changed")
    print(*(f"{name} {number}" for name, number in outcomes.items()))
    return 1 if outcomes["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
