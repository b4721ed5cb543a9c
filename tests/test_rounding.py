"""test_rounding: results of everything are the same bits in each rounding state, which is the caller's afterwards."""

import ctypes
import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hazards import CALLS, bits, fresh

import cbn

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="sets the x86 control register")

MODES = {"nearest": 0, "down": 0x400, "up": 0x800, "to-zero": 0xC00}  # of fenv.h
FLUSH = 0x8040  # results and arguments that are denormal become 0
STATES = {**{name: (mode, 0) for name, mode in MODES.items() if mode}, "flushed": (0, FLUSH), "both": (0x400, FLUSH)}


class Left(ctypes.Structure):
    _fields_ = (("error", ctypes.c_int), ("control", ctypes.c_uint), ("rounding", ctypes.c_int))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    source, made = Path(__file__).parent / "faults" / "rounding.c", tmp_path_factory.mktemp("rounding") / "rounding.so"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", made, source], check=True)
    library = ctypes.PyDLL(str(made))
    library.call_in_state.restype = ctypes.py_object
    library.call_in_state.argtypes = (ctypes.py_object, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Left))
    return library


def in_state(library, function, mode, flush):
    left = Left()
    result = library.call_in_state(function, mode, flush, ctypes.byref(left))
    assert (left.control, left.rounding) == (0x1F80 | mode << 3 | flush, mode)
    return result, left.error


def scaled(arguments, scale):
    """Values close to denormals, or denormal, but for what may not be; the caller's numbers are made beforehand."""
    keep = ("mask", "sample_weight", "images", "std", "inv_std", "y")
    return {name: a if name in keep else (a * scale).astype(a.dtype) for name, a in arguments.items()}


@pytest.mark.parametrize("scale", [1, 1e-37, 1e-40])
@pytest.mark.parametrize("call", CALLS)
def test_bits_of_everything(library, call, scale):
    function, arguments, _ = CALLS[call]
    arguments = scaled(arguments, np.float64(scale))
    expected = bits(function(**fresh(arguments)))
    for name, state in STATES.items():
        given = fresh(arguments)
        got, _ = in_state(library, lambda given=given: list(function(**given)), *state)
        assert bits(got) == expected, name


def others():
    """What is not among the calls with arrays alone."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((40, 3)) * 1e-3 + 0.7).astype(np.float32)
    a, b = cbn.moments(x[:13]), cbn.moments(x[13:])
    a32 = [np.float32(1e-41) * np.arange(1, 4, dtype=np.float32)] * 2
    layer = cbn.BatchNorm(3, convention="keras")
    layer(x)
    gaps = np.where(rng.random(x.shape) < 0.2, np.nan, x)
    outside = cbn.BatchNorm(3, convention="notes").eval()
    outside.running_var[...] = 0.3
    halves = (x * 1e-3).astype(np.float16)
    of = lambda m: [m.count, m.mean, m.m2, m.var()]  # noqa: E731
    return {
        "merge": lambda: of(a + b),
        "subtract": lambda: of(a + b - a),
        "tiny moments": lambda: of(cbn.Moments(3, *a32)),
        "features with gaps": lambda: of(cbn.FeatureNormalizer().fit(gaps).partial_fit(x).moments),
        "normalized": lambda: [cbn.FeatureNormalizer().fit(gaps).transform(x), cbn.FeatureNormalizer().fit(x).scale],
        "convert": lambda: cbn.convert(layer, "torch").state_dict().values(),
        "affine_map": lambda: [*layer.affine_map(), *outside.affine_map()],
        "outside": lambda: [outside(x)],
        "halves": lambda: [cbn.batch_norm(halves, training=True), *_run(cbn.BatchNorm(3, dtype=np.float16), halves)],
        "population": lambda: _population(x),
    }


def _run(layer, x):
    y = layer(x)
    return [y, layer.backward(x), layer.weight_grad, layer.bias_grad, *layer.state_dict().values()]


def _population(x):
    found = []
    for mode in ("pooled", "paper", "update_bn"):
        for options in ({"convention": "lecture"}, {"renorm": True}, {"virtual_batch_size": 7}):
            layer = cbn.BatchNorm(3, **options)
            cbn.recompute_statistics(layer, [x[:17], x[17:]], mode=mode, progress=False)
            found += layer.state_dict().values()
    return found


@pytest.mark.parametrize("call", others())
def test_bits_of_others(library, call):
    function = others()[call]
    expected = bits(function())
    for name, state in STATES.items():
        assert bits(in_state(library, lambda: list(function()), *state)[0]) == expected, name


def test_long_training(library):
    """Many updates, each of which would round otherwise."""

    def train(kind):
        rng, layer = np.random.default_rng(0), cbn.BatchNorm(3, dtype=np.float64, **kind)
        batches = rng.standard_normal((50, 12, 3)) * 1e-3 + rng.standard_normal(3)
        return lambda: [*[layer(x) for x in batches], *layer.state_dict().values()]

    for kind in ({"momentum": None}, {"zero_debias": True}, {"convention": "lecture"}, {"renorm": True}):
        expected = bits(train(kind)())
        for name, state in STATES.items():
            assert bits(in_state(library, train(kind), *state)[0]) == expected, name


def test_errors_leave_the_state(library):
    layer = cbn.BatchNorm(3)
    for wrong in (lambda: layer(np.zeros((1, 3))), lambda: layer.backward(None), lambda: cbn.fold_linear(1, 2, 3)):

        def caught(wrong=wrong):
            with pytest.raises((TypeError, ValueError, RuntimeError)):
                wrong()

        in_state(library, caught, *STATES["both"])


def test_errno(library):
    """As it was, where nothing had to be asked of the system."""
    x, running = np.ones((4, 3), np.float32), (np.zeros(3), np.ones(3))
    out = np.empty_like(x)
    layer = cbn.BatchNorm(3)
    calls = (
        lambda: cbn.batch_norm(x, *running, training=True, out=out),
        lambda: cbn.batch_norm_backward(x, x, *running, out=out),
        lambda: cbn.moments(x),
        lambda: layer(x, out=out),
    )
    for call in calls:
        call()
        assert in_state(library, call, *STATES["down"])[1] == 77
