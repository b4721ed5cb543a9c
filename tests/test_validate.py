"""test_validate: every message about a wrong argument, and that nothing has changed when one comes."""

import re

import numpy as np
import pytest

import cbn

F32 = np.float32
X = np.arange(24, dtype=F32).reshape(4, 3, 2)
THREE = np.ones(3, F32)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def overlapping():
    buffer = np.zeros(30, F32)
    return {"x": buffer[:24].reshape(4, 3, 2), "out": buffer[1:25].reshape(4, 3, 2)}


def overlapping_strided():
    buffer = np.zeros((8, 3, 2), F32)
    return {"x": buffer[::2], "out": buffer[:4]}


def shared_with_weight():
    buffer = np.zeros(24, F32)
    return {"weight": buffer[:3], "out": buffer.reshape(4, 3, 2)}


FORWARD = [
    ({"x": np.ma.masked_array(X, X > 3)}, TypeError, "x must be an array without a mask; got a masked array"),
    ({"x": X.astype(object)}, TypeError, "x must be float32, float64, float16 or bfloat16; got object"),
    ({"x": X.astype(complex)}, TypeError, "x must be float32, float64, float16 or bfloat16; got complex128"),
    (
        {"x": X.astype(int)},
        TypeError,
        "x must be float32, float64, float16 or bfloat16; got int64: cast it, for example with x.astype",
    ),
    ({"x": X > 3}, TypeError, "x must be float32, float64, float16 or bfloat16; got bool"),
    (
        {"x": X.astype(np.int16)},
        TypeError,
        "x must be float32, float64, float16 or bfloat16; got int16: cast it, for example with x.astype",
    ),
    ({"x": X.astype(np.longdouble)}, TypeError, "x must be float32, float64, float16 or bfloat16; got float128"),
    ({"x": "text"}, TypeError, "x must be float32, float64, float16 or bfloat16; got <U4"),
    ({"x": None}, TypeError, "x must be float32, float64, float16 or bfloat16; got object"),
    ({"x": THREE}, ValueError, "x must have rank 2 or more; got shape (3,)"),
    ({"x": F32(3)}, ValueError, "x must have rank 2 or more; got shape ()"),
    ({"axis": 3}, ValueError, "axis must lie between -3 and 2 for x of rank 3; got 3"),
    ({"axis": -4}, ValueError, "axis must lie between -3 and 2 for x of rank 3; got -4"),
    ({"axis": 1.0}, TypeError, "axis must be an integer; got float"),
    ({"axis": None}, TypeError, "axis must be an integer; got NoneType"),
    ({"weight": np.ones(4, F32)}, ValueError, "weight must have shape (3,), one value per channel; got (4,)"),
    ({"bias": np.ones((3, 1), F32)}, ValueError, "bias must have shape (3,), one value per channel; got (3, 1)"),
    (
        {"weight": THREE.astype(np.float16)},
        TypeError,
        "weight must have dtype float32 or float64, or that of x, float32; got float16",
    ),
    (
        {"weight": THREE, "bias": THREE.astype(float)},
        TypeError,
        "bias must have dtype float32, as weight has; got float64",
    ),
    ({"weight": THREE.astype(int)}, TypeError, "weight must be float32, float64, float16 or bfloat16; got int64"),
    ({"weight": np.ma.masked_array(THREE)}, TypeError, "weight must be an array without a mask; got a masked array"),
    ({"eps": -1e-5}, ValueError, "eps must be a finite number >= 0; got -1e-05"),
    ({"eps": float("nan")}, ValueError, "eps must be a finite number >= 0; got nan"),
    ({"eps": float("inf")}, ValueError, "eps must be a finite number >= 0; got inf"),
    ({"eps": 10**400}, ValueError, "eps must be a finite number >= 0; got 1000"),
    ({"eps": True}, TypeError, "eps must be a finite number >= 0; got bool"),
    ({"axis": True}, TypeError, "axis must be an integer; got bool"),
    ({"eps": "1e-5"}, TypeError, "eps must be a finite number >= 0; got str"),
    ({"num_threads": 0}, ValueError, "num_threads must be an integer from 1 to 65536; got 0"),
    ({"num_threads": -2}, ValueError, "num_threads must be an integer from 1 to 65536; got -2"),
    ({"num_threads": 10**30}, ValueError, "num_threads must be an integer from 1 to 65536; got 1000"),
    ({"num_threads": 1.5}, TypeError, "num_threads must be an integer from 1 to 65536; got float"),
    ({"out": X.tolist()}, TypeError, "out must be a NumPy array without a mask; got list"),
    ({"out": np.ma.masked_array(X.copy())}, TypeError, "out must be a NumPy array without a mask; got MaskedArray"),
    ({"out": X.astype(float)}, TypeError, "out must have dtype float32, as x has; got float64"),
    ({"out": X.astype(">f4")}, TypeError, "out must have dtype float32, as x has; got >f4"),
    ({"out": np.zeros((4, 3), F32)}, ValueError, "out must have shape (4, 3, 2), as x has; got (4, 3)"),
    ({"out": np.zeros((4, 3, 3), F32)}, ValueError, "out must have shape (4, 3, 2), as x has; got (4, 3, 3)"),
    ({"out": read_only(X)}, ValueError, "out must be writeable; got a read-only array"),
    ({"out": np.asfortranarray(X)}, ValueError, "out must be an aligned array in C order; got strides"),
    ({"out": np.zeros((8, 3, 2), F32)[::2]}, ValueError, "out must be an aligned array in C order; got strides"),
    (overlapping(), ValueError, "out must be x itself or share no memory with it; got a partial overlap"),
    (overlapping_strided(), ValueError, "out must be x itself or share no memory with it; got a partial overlap"),
    (shared_with_weight(), ValueError, "out must share no memory with weight; got an overlap"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), FORWARD, ids=[m[:40] for _, _, m in FORWARD])
def test_forward(arguments, error, message):
    arguments = {"x": X, **arguments}
    functions = [cbn.batch_norm_forward, lambda **a: cbn.batch_norm(**a, training=True), inference]
    if getattr(arguments["x"], "dtype", None) == np.uint8:  # inference takes images
        functions.pop()
    for function in functions:
        with pytest.raises(error, match="^" + re.escape(message)):
            function(**arguments)


def inference(**arguments):
    return cbn.batch_norm(running_mean=THREE, running_var=THREE, **arguments)


BACKWARD = [
    ({"dy": X[:2]}, ValueError, "dy must have shape (4, 3, 2), as x has; got (2, 3, 2)"),
    ({"dy": X.reshape(4, 6)}, ValueError, "dy must have shape (4, 3, 2), as x has; got (4, 6)"),
    ({"dy": X.astype(float)}, TypeError, "dy must have dtype float32, as x has; got float64"),
    ({"dy": np.ma.masked_array(X)}, TypeError, "dy must be an array without a mask; got a masked array"),
    ({"dy": X.astype(int)}, TypeError, "dy must be float32, float64, float16 or bfloat16; got int64"),
    ({"mean": np.ones(2)}, ValueError, "mean must have shape (3,), one value per channel; got (2,)"),
    ({"inv_std": np.ones(4)}, ValueError, "inv_std must have shape (3,), one value per channel; got (4,)"),
    ({"mean": None}, TypeError, "mean must be float32, float64, float16 or bfloat16; got object"),
    ({"weight": np.ones(2, F32)}, ValueError, "weight must have shape (3,), one value per channel; got (2,)"),
    ({"out": X[:2].copy()}, ValueError, "out must have shape (4, 3, 2), as x has; got (2, 3, 2)"),
    ({"out": np.asfortranarray(X)}, ValueError, "out must be an aligned array in C order; got strides"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BACKWARD, ids=[m[:40] for _, _, m in BACKWARD])
def test_backward(arguments, error, message):
    arguments = {"dy": X, "x": X, "mean": np.ones(3), "inv_std": np.ones(3), **arguments}
    with pytest.raises(error, match="^" + re.escape(message)):
        cbn.batch_norm_backward(**arguments)


def test_an_empty_out_overlaps_nothing():
    w = np.ones(8, np.float32)
    out = w[1:1].reshape(0, 2)
    assert cbn.batch_norm_forward(np.empty((0, 2), np.float32), w[:2], out=out)[0] is out


def test_backward_overlap():
    buffer = np.zeros(30, F32)
    dy, out = buffer[:24].reshape(4, 3, 2), buffer[2:26].reshape(4, 3, 2)
    with pytest.raises(ValueError, match="out must be dy itself or share no memory with it; got a partial overlap"):
        cbn.batch_norm_backward(dy, X, np.ones(3), np.ones(3), out=out)


STATISTICS = [
    (
        {"running_mean": None},
        True,
        ValueError,
        "running_mean and running_var must either both be None or neither be None",
    ),
    (
        {"running_var": None},
        True,
        ValueError,
        "running_mean and running_var must either both be None or neither be None",
    ),
    ({"running_mean": None}, False, ValueError, "running_mean must be given for inference; got None"),
    ({"running_var": None}, False, ValueError, "running_var must be given for inference; got None"),
    (
        {"running_mean": np.ones(2, F32)},
        True,
        ValueError,
        "running_mean must have shape (3,), one value per channel; got (2,)",
    ),
    (
        {"running_var": np.ones(4, F32)},
        False,
        ValueError,
        "running_var must have shape (3,), one value per channel; got (4,)",
    ),
    (
        {"running_var": F32([1, -2, 1])},
        False,
        ValueError,
        "running_var must be >= 0 in every channel; got -2.0 in channel 1",
    ),
    (
        {"running_var": np.ones(3)},
        True,
        TypeError,
        "running_var must have dtype float32, as running_mean has; got float64",
    ),
    (
        {"running_mean": [0.0, 0.0, 0.0]},
        True,
        TypeError,
        "running_mean must be a NumPy array without a mask to be updated; got list",
    ),
    ({"running_mean": read_only(THREE)}, True, ValueError, "running_mean must be writeable; got a read-only array"),
    (
        {"running_var": np.ones(6, F32)[::2]},
        True,
        ValueError,
        "running_var must be contiguous to be updated; got strides",
    ),
    ({"running_mean": THREE.astype(">f4")}, True, ValueError, "running_mean must be aligned and in native byte order"),
    ({"momentum": 1.5}, True, ValueError, "momentum must be a number in [0, 1]; got 1.5"),
    ({"momentum": -0.1}, True, ValueError, "momentum must be a number in [0, 1]; got -0.1"),
    ({"momentum": float("nan")}, True, ValueError, "momentum must be a number in [0, 1]; got nan"),
    ({"momentum": None}, True, TypeError, "momentum must be a number in [0, 1]; got NoneType"),
]


@pytest.mark.parametrize(
    ("arguments", "training", "error", "message"), STATISTICS, ids=[m[:50] for *_, m in STATISTICS]
)
def test_statistics(arguments, training, error, message):
    running = {"running_mean": np.zeros(3, F32), "running_var": np.ones(3, F32)}
    kept = {**running, **arguments}
    before = {name: np.copy(value) for name, value in kept.items()}
    out = np.full(X.shape, 7, F32)
    with pytest.raises(error, match="^" + re.escape(message)):
        cbn.batch_norm(X, training=training, out=out, **kept)
    assert (out == 7).all()
    for name, value in kept.items():
        np.testing.assert_array_equal(value, before[name])


def test_running_statistics_that_are_one_array():
    with pytest.raises(ValueError, match="running_var must share no memory with running_mean; got an overlap"):
        cbn.batch_norm(X, THREE, THREE, training=True)


LAYER = [
    ({"num_features": -1}, ValueError, "num_features must be an integer from 0 to 2**40; got -1"),
    ({"num_features": 2**60}, ValueError, "num_features must be an integer from 0 to 2**40; got"),
    ({"num_features": 2.0}, TypeError, "num_features must be an integer; got float"),
    ({"eps": -1.0}, ValueError, "eps must be a finite number >= 0; got -1.0"),
    ({"eps": float("inf")}, ValueError, "eps must be a finite number >= 0; got inf"),
    ({"eps": None}, TypeError, "eps must be a finite number >= 0; got NoneType"),
    ({"momentum": 2}, ValueError, "momentum must be a number in [0, 1]; got 2"),
    ({"momentum": "0.1"}, TypeError, "momentum must be a number in [0, 1]; got str"),
    ({"axis": 1.5}, TypeError, "axis must be an integer; got float"),
    ({"dtype": np.longdouble}, TypeError, "dtype must be float32, float64, float16 or bfloat16; got float128"),
    ({"dtype": "foo"}, TypeError, "dtype must be float32, float64, float16 or bfloat16; got foo"),
    ({"dtype": int}, TypeError, "dtype must be float32, float64, float16 or bfloat16; got int64"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), LAYER, ids=[m[:40] for _, _, m in LAYER])
def test_layer_arguments(arguments, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        cbn.BatchNorm(**{"num_features": 3, **arguments})


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda: cbn.set_num_threads(0), ValueError, "n must be an integer from 1 to 65536; got 0"),
        (lambda: cbn.set_num_threads("2"), TypeError, "n must be an integer from 1 to 65536; got str"),
        (lambda: cbn.set_num_threads(True), TypeError, "n must be an integer from 1 to 65536; got bool"),
        (lambda: cbn.num_threads(0).__enter__(), ValueError, "n must be an integer from 1 to 65536; got 0"),
        (lambda: cbn.use_isa("sse9").__enter__(), ValueError, "name must be one of baseline"),
        (lambda: cbn.use_isa(None).__enter__(), ValueError, "name must be one of baseline"),
        (lambda: cbn.moments(THREE), ValueError, "x must have rank 2 or more; got shape (3,)"),
        (lambda: cbn.Moments(1, np.ma.zeros(1), [0.0]), TypeError, "mean must be an array without a mask"),
        (lambda: cbn.Moments(-1, [0.0], [0.0]), ValueError, "count must be from 0 to 9223372036854775807; got -1"),
        (lambda: cbn.Moments("2", [0.0], [0.0]), TypeError, "count must be a number; got str"),
        (lambda: cbn.Moments(["2"], [0.0], [0.0]), TypeError, "count must be an array of real numbers; got <U1"),
        (lambda: cbn.Moments(2**63, [0.0], [0.0]), ValueError, "count must be from 0 to 9223372036854775807; got 9223"),
        (lambda: cbn.Moments(np.inf, [0.0], [0.0]), ValueError, "count must be from 0 to 1e+300; got inf"),
        (lambda: cbn.Moments([2, -1], [0.0, 0], [0.0, 0]), ValueError, "count must be from 0 to 922337203685477580"),
        (lambda: cbn.Moments(np.uint64([2**63]), [0.0], [0.0]), ValueError, "count must be from 0 to 922337203685477"),
        (lambda: cbn.Moments([2, np.nan], [0.0, 0], [0.0, 0]), ValueError, "count must be from 0 to 1e+300 in every c"),
        (lambda: cbn.Moments(3, [1j], [0.0]), TypeError, "mean must be an array of real numbers; got complex128"),
        (lambda: cbn.Moments(3, [0.0], ["1"]), TypeError, "m2 must be an array of real numbers; got <U1"),
        (lambda: cbn.Moments(3, [[0.0], 1], [0.0]), TypeError, "mean must be an array of real numbers; got list"),
        (lambda: cbn.Moments(3, [0.0], [0.0]).var("1"), TypeError, "ddof must be an integer; got str"),
        (lambda: cbn.Moments.from_dict(3), TypeError, "values must be a dict of count, mean and m2; got int"),
        (
            lambda: cbn.Moments([2], [0.0, 0], [0.0, 0]),
            ValueError,
            "count must be a number or have shape (2,), as mean",
        ),
        (
            lambda: cbn.update_running(np.zeros(1), np.ones(1), cbn.Moments([2], [0.0], [0.0]), 0.1),
            ValueError,
            "moments.count must be one number for running statistics; got one for each channel",
        ),
        (lambda: cbn.Moments(1, 0.0, 0.0), ValueError, "mean must have shape (C,); got ()"),
        (lambda: cbn.Moments(1, [0.0], [0.0, 1.0]), ValueError, "m2 must have shape (1,), as mean has; got (2,)"),
        (lambda: cbn.Moments(1, [0.0], [-1.0]), ValueError, "m2 must be >= 0 in every channel; got -1.0"),
        (
            lambda: cbn.Moments(1, [0.0], [1.0]).var(1),
            ValueError,
            "count must be more than ddof = 1 for a variance; got 1",
        ),
        (lambda: cbn.Moments(1, [0.0], [1.0]).merge(3), TypeError, "other must be a Moments; got int"),
        (lambda: cbn.Moments(1, [0.0], [1.0]).update(X), ValueError, "other must have 1 channels; got 3"),
        (
            lambda: cbn.Moments.from_dict({"mean": 1}),
            ValueError,
            "values must have the keys count, mean and m2; got mean",
        ),
        (lambda: cbn.update_running(THREE, THREE, None, 0.1), TypeError, "moments must be a Moments; got NoneType"),
        (
            lambda: cbn.update_running(np.zeros(3), np.ones(3), cbn.Moments(1, [0.0] * 3, [0.0] * 3), 0.1),
            ValueError,
            "moments.count must be more than 1 for an unbiased variance; got 1",
        ),
        (
            lambda: cbn.update_running(np.zeros(2), np.ones(2), cbn.Moments(2, [0.0] * 3, [0.0] * 3), 0.1),
            ValueError,
            "moments.mean must have shape (2,), one value per channel; got (3,)",
        ),
    ],
)
def test_the_rest(function, error, message):
    with pytest.raises(error, match="^" + re.escape(message)):
        function()
