"""test_reference: the oracle itself, by closed forms, exact data and finite differences."""

import inspect

import numpy as np
import pytest
from cases import DTYPES, filled, parameters

import cbn
from cbn import reference

NAMES = [
    "batch_norm",
    "batch_norm_forward",
    "batch_norm_backward",
    "batch_norm_double_backward",
    "moments",
    "update_running",
]


@pytest.mark.parametrize("name", NAMES)
def test_same_signature(name):
    assert inspect.signature(getattr(reference, name)) == inspect.signature(getattr(cbn, name))


def test_closed_form():
    x = np.array([[1, -2], [3, 2], [8, 0]], np.float32)
    y, mean, inv_std = reference.batch_norm_forward(x, np.float32([2, 3]), np.float32([1, -1]), 0.25)
    np.testing.assert_array_equal(mean, [4, 0])
    var = np.array([26 / 3, 8 / 3])
    np.testing.assert_allclose(inv_std, 1 / np.sqrt(var + 0.25), rtol=1e-15)
    np.testing.assert_allclose(y, (x - [4, 0]) / np.sqrt(var + 0.25) * [2, 3] + [1, -1], rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
def test_precision_is_wider_than_the_input(dtype):
    x = filled((4, 3, 5), 1, dtype)
    wide = np.float64 if dtype == np.float32 else np.longdouble
    assert all(a.dtype == wide for a in reference.batch_norm_forward(x))


@pytest.mark.parametrize("name", ["float16", "bfloat16", "uint8", "int64", ">f4", ">f8"])
def test_dtypes(name):
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name
    x, dy = (np.abs(filled((4, 2, 5), 1, np.float64, seed=seed) * 20).astype(dtype) for seed in range(2))
    weight, bias = parameters(2, np.float32)
    y, mean, inv_std = reference.batch_norm_forward(x, weight, bias, activation="relu", residual=dy)
    first = reference.batch_norm_backward(dy, x, mean, inv_std, weight, activation="relu", y=y, residual=True)
    second = reference.batch_norm_double_backward(dy, bias, bias, dy, x, mean, inv_std, weight)
    wide = np.longdouble if name == ">f8" else np.float64
    assert all(a.dtype == wide for a in (y, mean, inv_std, *first, *second))
    exact = reference.batch_norm_forward(x.astype(np.longdouble), weight, bias, activation="relu", residual=dy)
    for a, b in zip((y, mean, inv_std), exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_large_offset_in_every_layout(axis):
    """Integers: sums are exact in float64, so that the moments are known whatever the offset."""
    values = np.random.default_rng(0).integers(-8, 8, (60, 50, 40))
    count, mean, m2 = reference.statistics((values + 2**20).astype(np.float32), axis)
    rest = tuple(d for d in range(3) if d != axis % 3)
    exact_mean = values.mean(axis=rest)
    np.testing.assert_allclose(mean, exact_mean + 2**20, rtol=2e-16)
    np.testing.assert_allclose(m2, np.square(values).sum(axis=rest) - count * exact_mean**2, rtol=1e-13)


def test_finite_differences():
    """The gradient of sum(y * g) for random g, by central differences in longdouble."""
    x = filled((3, 2, 4), 1, np.float64)
    g = filled(x.shape, 1, np.float64, seed=7)
    weight, bias = parameters(2, np.float64)
    _, mean, inv_std = reference.batch_norm_forward(x, weight, bias)
    gradients = reference.batch_norm_backward(g, x, mean, inv_std, weight)

    def loss(values, w, b, fixed):
        if fixed:
            return float((reference._affine(values, mean, inv_std, w, b, 1) * g).sum())
        return float((reference.batch_norm_forward(values, w, b)[0] * g).sum())

    step = 1e-5
    for fixed in (False, True):
        if fixed:
            gradients = reference.batch_norm_backward(g, x, mean, inv_std, weight, training=False)
        for which, exact in enumerate(gradients):
            arguments = [x.copy(), weight.copy(), bias.copy()]
            for index in np.ndindex(arguments[which].shape):
                kept = arguments[which][index]
                sides = []
                for sign in (1, -1):
                    arguments[which][index] = kept + sign * step
                    sides.append(loss(*arguments, fixed))
                arguments[which][index] = kept
                assert abs((sides[0] - sides[1]) / (2 * step) - float(exact[index])) < 1e-8


def test_inference_and_running_update():
    x = filled((6, 3), 1, np.float32)
    mean, var = np.float32([1, 2, 3]), np.float32([4, 9, 16])
    y = reference.batch_norm(x, mean, var, eps=0.0)
    np.testing.assert_allclose(y, (x.astype(np.float64) - [1, 2, 3]) / [2, 3, 4], rtol=1e-15)
    reference.batch_norm(x, mean, var, training=True, momentum=0.5)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, (wide.mean(0) + np.array([1, 2, 3])) / 2, rtol=1e-6)
    np.testing.assert_allclose(var, (wide.var(0, ddof=1) + np.array([4, 9, 16])) / 2, rtol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_nan_stays_in_its_channel(training):
    x = filled((6, 3), 1, np.float32)
    x[2, 1] = np.nan
    _, mean, inv_std = reference.batch_norm_forward(x)
    if not training:
        mean, inv_std = np.zeros(3), np.ones(3)
    dx, dweight, dbias = reference.batch_norm_backward(np.ones((6, 3)), x, mean, inv_std, training=training)
    np.testing.assert_array_equal(np.isnan(dweight), [False, True, False])
    np.testing.assert_array_equal(np.isnan(dx).any(axis=0), [False, training, False])
    np.testing.assert_array_equal(dbias, 6)
