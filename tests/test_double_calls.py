"""test_double_calls: the gradients of gradients: same bits everywhere, special values, and wrong arguments."""

import numpy as np
import pytest
from cases import NAMES, dtype_of, filled, lines, misaligned, parameters, spread
from test_bits import IDS, SHAPES, at_offset

import cbn


def everything(x, ddx, dy, axis, num_threads):
    channels = x.shape[axis]
    weight, ddweight = parameters(channels, np.float32)
    arguments = (ddx, ddweight, ddweight, dy, x, np.linspace(-1, 1, channels), np.linspace(0.5, 2, channels), weight)
    both = (
        cbn.batch_norm_double_backward(*arguments, axis=axis, training=training, num_threads=num_threads)
        for training in (True, False)
    )
    return [np.ascontiguousarray(a).tobytes() for results in both for a in results]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shape", "axis"), [(shape, axis) for _, shape, axis in SHAPES], ids=IDS)
def test_isa_threads_and_alignment(shape, axis, name):
    x = filled(shape, axis, dtype_of(name))
    ddx, dy = lines(x, axis, 5.0)
    with cbn.use_isa("baseline"):
        expected = everything(x, ddx, dy, axis, 1)
    for isa in cbn.available_isas():
        with cbn.use_isa(isa):
            for num_threads in (1, 2, 3, 7):
                assert everything(x, ddx, dy, axis, num_threads) == expected, (isa, num_threads)
            assert everything(at_offset(x, 1), at_offset(ddx, 3), at_offset(dy, 7), axis, 2) == expected, isa
            assert everything(misaligned(x), misaligned(ddx), misaligned(dy), axis, 2) == expected, isa


# --- arguments ---


@pytest.mark.parametrize("training", [True, False], ids=["training", "fixed"])
def test_none_is_zeros_and_ones(training):
    x = filled((4, 3, 20), 1, np.float32)
    ddx, dy = lines(x, 1, 1.0)
    _, mean, inv_std = cbn.batch_norm_forward(x)
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    short = cbn.batch_norm_double_backward(ddx, None, None, dy, x, mean, inv_std, training=training)
    long = cbn.batch_norm_double_backward(ddx, zeros, zeros, dy, x, mean, inv_std, ones, training=training)
    for a, b in zip(short, long, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("training", [True, False], ids=["training", "fixed"])
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0), (4, 0, 5)])
def test_empty(shape, training):
    x, channels = np.zeros(shape), np.zeros(shape[1])
    ddy, dx, dweight = cbn.batch_norm_double_backward(x, None, None, x, x, channels, channels, training=training)
    assert ddy.shape == dx.shape == shape
    np.testing.assert_array_equal(dweight, channels)


@pytest.mark.parametrize("training", [True, False], ids=["training", "fixed"])
@pytest.mark.parametrize("which", ["ddx", "dy", "x"])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3, 20, 11), 1), ((4, 3, 3, 3), 1), ((40, 7), 1), ((9, 7, 3), -1)])
def test_nan_stays_in_its_channel(shape, axis, which, training):
    arrays = {"x": filled(shape, axis, np.float32)}
    arrays["ddx"], arrays["dy"] = lines(arrays["x"], axis, 1.0)
    channels = shape[axis]
    weight, ddweight = parameters(channels, np.float32)
    fixed = np.zeros(channels), np.ones(channels)

    def results():
        first = cbn.batch_norm_forward(arrays["x"], axis=axis)[1:] if training else fixed
        ddx, dy, x = (arrays[name] for name in ("ddx", "dy", "x"))
        got = cbn.batch_norm_double_backward(ddx, ddweight, None, dy, x, *first, weight, axis=axis, training=training)
        return [np.moveaxis(a, axis if a.ndim > 1 else 0, 0) for a in got]

    clean = results()
    np.moveaxis(arrays[which], axis, 0)[1].flat[2] = np.nan
    others = [c for c in range(channels) if c != 1]
    bad = results()
    for a, b in zip(bad, clean, strict=True):
        np.testing.assert_array_equal(a[others], b[others])
    if training:
        assert np.isnan(bad[1][1]).all() and np.isnan(bad[2][1])
    else:  # x_hat stands in ddy only
        places = [int(np.isnan(a[1]).sum()) for a in bad]
        assert places == {"ddx": [1, 0, 1], "dy": [0, 1, 1], "x": [1, 0, 0]}[which]


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_constant_channel(eps):
    """Nothing is left of x_hat; with eps = 0 inv_std is 0, and only ddbias passes."""
    x = np.full((5, 2, 7), 0.1, np.float32)
    ddx, dy = (filled(x.shape, 1, np.float32, seed=seed) for seed in (1, 2))
    _, mean, inv_std = cbn.batch_norm_forward(x, eps=eps)
    p, q = np.float32([2, 3]), np.float32([4, 5])
    ddy, dx, dweight = cbn.batch_norm_double_backward(ddx, p, q, dy, x, mean, inv_std)
    assert np.isfinite(ddy).all() and np.isfinite(dx).all() and np.isfinite(dweight).all()
    if eps == 0:
        np.testing.assert_array_equal(ddy, np.broadcast_to(spread(q, x, 1), x.shape))
        assert not dx.any() and not dweight.any()


X = np.zeros((4, 3), np.float32)
THREE = np.zeros(3, np.float32)
WRONG = [
    ({"ddx": None}, TypeError, "ddx must be float32, float64, float16 or bfloat16; got object"),
    ({"ddx": X[:2]}, ValueError, r"ddx must have shape \(4, 3\), as x has; got \(2, 3\)"),
    ({"ddx": X.astype(float)}, TypeError, "ddx must have dtype float32, as x has; got float64"),
    ({"ddx": np.ma.array(X)}, TypeError, "ddx must be an array without a mask; got a masked array"),
    ({"dy": None}, TypeError, "dy must be float32, float64, float16 or bfloat16; got object"),
    ({"dy": X.T}, ValueError, r"dy must have shape \(4, 3\), as x has; got \(3, 4\)"),
    ({"dy": X.astype(np.float16)}, TypeError, "dy must have dtype float32, as x has; got float16"),
    ({"x": X.astype(int)}, TypeError, "x must be float32, float64, float16 or bfloat16; got int64"),
    ({"x": THREE}, ValueError, r"x must have rank 2 or more; got shape \(3,\)"),
    ({"mean": THREE[:2]}, ValueError, r"mean must have shape \(3,\), one value per channel; got \(2,\)"),
    ({"inv_std": X}, ValueError, r"inv_std must have shape \(3,\), one value per channel; got \(4, 3\)"),
    ({"weight": THREE[:1]}, ValueError, r"weight must have shape \(3,\), one value per channel; got \(1,\)"),
    ({"ddweight": X}, ValueError, r"ddweight must have shape \(3,\), one value per channel; got \(4, 3\)"),
    ({"ddbias": THREE[:2]}, ValueError, r"ddbias must have shape \(3,\), one value per channel; got \(2,\)"),
    ({"ddweight": THREE.astype(float)}, TypeError, "ddweight must have dtype float32, as weight has; got float64"),
    (
        {"weight": None, "ddbias": THREE.astype(float)},
        TypeError,
        "ddbias must have dtype float32, as ddweight has; got float64",
    ),
    ({"ddbias": THREE.astype(np.float16)}, TypeError, "ddbias must have dtype float32, as weight has; got float16"),
    ({"axis": 2}, ValueError, "axis must lie between -2 and 1 for x of rank 2; got 2"),
    ({"axis": 1.0}, TypeError, "axis must be an integer; got float"),
    ({"num_threads": 0}, ValueError, "num_threads must be an integer from 1 to 65536; got 0"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=[next(iter(w[0])) for w in WRONG])
def test_wrong_arguments(change, error, message):
    names = ["ddx", "ddweight", "ddbias", "dy", "x", "mean", "inv_std", "weight"]
    arguments = dict(zip(names, [X, THREE, THREE, X, X, THREE, THREE, THREE], strict=True)) | change
    with pytest.raises(error, match=message):
        cbn.batch_norm_double_backward(**arguments)
