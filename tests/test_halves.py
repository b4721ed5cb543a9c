"""test_halves: float16 and bfloat16, whose results are those of float32, rounded once."""

import ml_dtypes
import numpy as np
import pytest
from cases import DISTRIBUTIONS, HALVES, LAYOUTS, filled, gradient, misaligned, parameters
from holds import hold
from test_bits import at_offset, everything

import cbn

F32 = np.float32
HALF_IDS = ["f16", "bf16"]
halves = pytest.mark.parametrize("dtype", HALVES, ids=HALF_IDS)

# around lines of 16 and 32 values, small planes, columns that are folded or not, pieces
SHAPES = [
    ("NC-2x1", (2, 1), 1),
    ("NC-3x17", (3, 17), 1),
    ("NC-40x1025", (40, 1025), 1),
    ("NC-9000x5", (9000, 5), 1),
    ("NCL-2x70x15", (2, 70, 15), 1),
    ("NCL-3x65x31", (3, 65, 31), 1),
    ("NCL-3x5x33", (3, 5, 33), 1),
    ("NCHW-6x33x7x7", (6, 33, 7, 7), 1),
    ("NCHW-2x3x65x33", (2, 3, 65, 33), 1),
    ("NCHW-1x2x300x301", (1, 2, 300, 301), 1),
    ("NHWC-3x9x7x5", (3, 9, 7, 5), -1),
    ("NHWC-2x31x9x64", (2, 31, 9, 64), -1),
    ("CN-4x37", (4, 37), 0),
]
BIT_SHAPES = [
    ("rows", (4, 3, 120, 131), 1),
    ("one-large-image", (1, 2, 500, 501), 1),
    ("small-planes", (33, 130, 7, 7), 1),
    ("NHWC-narrow", (9, 90, 91, 3), -1),
    ("NC", (2100, 129), 1),
    ("small", (5, 3, 4, 5), 1),
    ("streaming", (3, 5, 600, 601), 1),
]


def by_shape(shapes):
    return pytest.mark.parametrize(
        ("shape", "axis"), [(shape, axis) for _, shape, axis in shapes], ids=[name for name, _, _ in shapes]
    )


def bits(array):
    return np.ascontiguousarray(array).view(np.uint16)


@halves
@by_shape(SHAPES)
def test_shapes(shape, axis, dtype, isa):
    hold(filled(shape, axis, dtype), axis)


@halves
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 12, 40), 1), ((5, 33, 7, 7), 1), ((3, 8, 7, 6), -2)])
def test_layouts(shape, axis, layout, dtype):
    if layout == "byteswapped" and dtype != np.float16:
        return  # ml_dtypes has no bfloat16 of the other byte order
    x = filled(shape, axis, dtype)
    arranged = LAYOUTS[layout](x, axis)
    hold(arranged, axis)
    np.testing.assert_array_equal(
        cbn.batch_norm(arranged, training=True, axis=axis).strides,
        arranged.strides if layout in ("C", "channels_last") else x.strides,
    )


@halves
@pytest.mark.parametrize("distribution", sorted(set(DISTRIBUTIONS) - {"offset-1e6"}))
@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 5, 30, 40), 1), ((50, 4, 7, 7), 1), ((6, 31, 33, 5), -1)], ids=["rows", "small", "NHWC"]
)
def test_distributions(shape, axis, dtype, distribution):
    x = filled(shape, axis, np.float64, distribution)
    if dtype == np.float16:
        x = np.clip(x, -6e4, 6e4)
    hold(x.astype(dtype), axis, 0.0 if distribution == "1e-37" and dtype != np.float16 else 1e-5, stat_dtype=F32)


@halves
@pytest.mark.parametrize("stat_dtype", [None, np.float32, np.float64], ids=["own", "f32", "f64"])
@pytest.mark.parametrize("param_dtype", [None, np.float32, np.float64], ids=["own", "f32", "f64"])
def test_parameters_of_other_dtypes(param_dtype, stat_dtype, dtype):
    for shape in ((6, 5, 12, 40), (6, 33, 7, 7)):
        x = filled(shape, 1, dtype, "offset-1e3")
        hold(x, 1, dy=gradient(x, 1, 0.3), param_dtype=param_dtype, stat_dtype=stat_dtype)


@pytest.mark.parametrize("stat_dtype", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("param_dtype", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["x-f32", "x-f64"])
def test_parameters_of_other_dtypes_than_float32_or_float64(dtype, param_dtype, stat_dtype):
    hold(filled((6, 5, 12, 40), 1, dtype), 1, param_dtype=param_dtype, stat_dtype=stat_dtype)


@halves
def test_the_dtype_of_gradients_and_of_what_does_not_fit(dtype):
    x = filled((4, 3), 1, dtype)
    _, mean, inv_std = cbn.batch_norm_forward(x)
    assert mean.dtype == inv_std.dtype == np.float64
    for weight_dtype, wanted in ((None, F32), (dtype, dtype), (F32, F32), (np.float64, np.float64)):
        weight = None if weight_dtype is None else np.ones(3, weight_dtype)
        dx, dweight, dbias = cbn.batch_norm_backward(x, x, mean, inv_std, weight)
        assert dx.dtype == dtype and dweight.dtype == dbias.dtype == wanted
    other = HALVES[1 - HALVES.index(dtype)]
    message = f"weight must have dtype float32 or float64, or that of x, {dtype.name}; got {other.name}"
    with pytest.raises(TypeError, match="^" + message):
        cbn.batch_norm_forward(x, np.ones(3, other))


def every_pattern(dtype):
    return np.arange(2**16, dtype=np.uint16).view(dtype)


@halves
@pytest.mark.parametrize("shape", [(2, 2**15), (2**15, 2), (1, 2, 2**15), (2**10, 4, 16), (2**12, 2, 8)], ids=str)
def test_every_bit_pattern_passes(shape, dtype, isa):
    """x - 0 is x, but for -0, which becomes 0."""
    x = every_pattern(dtype)
    channels = shape[1]
    y = cbn.batch_norm(x.reshape(shape), np.zeros(channels, F32), np.ones(channels, F32), eps=0).ravel()
    is_nan = np.isnan(x.astype(F32))
    np.testing.assert_array_equal(np.isnan(y.astype(F32)), is_nan)
    wanted = np.where(bits(x) == 0x8000, np.uint16(0), bits(x))
    np.testing.assert_array_equal(bits(y)[~is_nan], wanted[~is_nan])


def float_patterns():
    """Every upper half of a float32 with lower halves around ties, zeros and ones."""
    lower = np.uint32([0, 1, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    return ((np.arange(2**16, dtype=np.uint32) << 16)[:, None] | lower).ravel().view(F32)


def bias_of_nothing(bias, weight, dtype, inner):
    """y of zeros, which is the bias; as float32, and how the dtype rounds the bias."""
    x, fixed = np.zeros((1, bias.size, inner), dtype), np.zeros((2, bias.size), F32)
    fixed[1] = 1
    y = cbn.batch_norm(x, *fixed, np.full_like(bias, weight), bias, eps=0)
    with np.errstate(over="ignore"):
        return y[0].astype(F32), np.repeat(bias.astype(dtype).astype(F32)[:, None], inner, axis=1)


@halves
@pytest.mark.parametrize("inner", [1, 3, 16])
def test_every_float_is_rounded_to_nearest_even(inner, dtype, isa):
    """Ties, overflow and subnormals included. Beyond 2**100 (and below) numbers are computed in double."""
    values = float_patterns()
    for part in (np.abs(values) <= 2.0**100, np.isfinite(values) & (np.abs(values) > 2.0**100)):
        np.testing.assert_array_equal(*bias_of_nothing(values[part], 1, dtype, inner))


@halves
@pytest.mark.parametrize("inner", [1, 3, 16])
def test_a_double_is_rounded_once(inner, dtype, isa):
    """Numbers a little off ties: not to the tie first. The tiny weight makes them doubles.

    Not so for bfloat16's subnormals, which are float32's, too.
    """
    first, last = (0, 2.0**15) if dtype == np.float16 else (2.0**-126, 2.0**127)
    first, last = np.array([first, last], dtype).view(np.uint16).astype(int)
    finite = every_pattern(dtype)[first:last].astype(np.float64)
    tie = (finite[1:] + finite[:-1]) / 2
    off = np.concatenate([tie * (1 + step) for step in (0, 2.0**-45, -(2.0**-45))])
    y, _ = bias_of_nothing(off, 2.0**-120, dtype, inner)
    even = finite[:-1] + (np.arange(tie.size) % 2) * (finite[1:] - finite[:-1])
    wanted = np.concatenate([even, finite[1:], finite[:-1]])
    np.testing.assert_array_equal(y, np.repeat(wanted[:, None], inner, axis=1))


@halves
@pytest.mark.parametrize(("shape", "axis"), [((64, 2, 40), 1), ((3, 2, 70, 13), 1), ((500, 7), -1)], ids=str)
def test_ties_go_to_even(shape, axis, dtype, isa):
    """Products that lie halfway between two numbers: odd integers of one bit too many."""
    digits = ml_dtypes.finfo(dtype).nmant + 1
    rng = np.random.default_rng(0)
    x = rng.integers(2 ** (digits - 1), 2**digits, shape) * rng.choice([-1.0, 1.0], shape)
    channels = shape[axis]
    y = cbn.batch_norm(x.astype(dtype), np.zeros(channels, F32), np.ones(channels, F32), np.full(channels, 1.5, F32),
                       eps=0, axis=axis)  # fmt: skip
    half = np.abs(x * 1.5)
    assert (half % 2 == 1).any() and (half.astype(dtype).astype(float) != half).any()
    np.testing.assert_array_equal(y.astype(float), (x * 1.5).astype(dtype).astype(float))


@halves
@pytest.mark.parametrize("shape", [(64, 2, 40), (3, 2, 70, 14), (500, 8), (16, 6, 7, 7)], ids=str)
def test_forward_is_exact_where_float32_is(shape, dtype, isa):
    """Integers m + 1 and m - 1: the mean is m, the deviation 1, and y is weight * (x - m) + bias, rounded once."""
    rng = np.random.default_rng(1)
    channels, half = shape[1], np.prod(shape) // shape[1] // 2
    signs = rng.permuted(np.tile([[1.0] * half + [-1.0] * half], (channels, 1)), axis=1)
    mean = rng.integers(-60, 60, channels)
    x = np.moveaxis((mean[:, None] + signs).reshape(channels, shape[0], *shape[2:]), 0, 1).astype(dtype)
    weight, bias = (rng.integers(-4000, 4000, (2, channels)) / 2).astype(F32)
    y, got_mean, got_inv_std = cbn.batch_norm_forward(x, weight, bias, eps=0)
    np.testing.assert_array_equal(got_mean, mean)
    np.testing.assert_array_equal(got_inv_std, np.ones(channels))
    spread = lambda a: np.reshape(a, (-1, *[1] * (len(shape) - 2)))  # noqa: E731
    exact = spread(weight) * (x.astype(F32) - spread(mean).astype(F32)) + spread(bias)
    np.testing.assert_array_equal(y.astype(F32), exact.astype(dtype).astype(F32))


@halves
@by_shape(BIT_SHAPES)
def test_bits(shape, axis, dtype):
    """Over instruction sets, threads, alignment, in place or not."""
    x = filled(shape, axis, dtype, "offset-1e3")
    dy = gradient(x, axis, 1)
    own = parameters(shape[axis], dtype)
    with cbn.use_isa("baseline"):
        expected = everything(x, dy, axis, 1, weight_bias=own)
    for isa, num_threads in zip(cbn.available_isas() * 2, (1, 2, 7, 3, 2, 5), strict=False):
        with cbn.use_isa(isa):
            in_place = num_threads % 2 == 1
            assert everything(x, dy, axis, num_threads, in_place, own) == expected, (isa, num_threads)
    for elements in (1, 7):
        got = everything(at_offset(x, elements), at_offset(dy, elements), axis, 2, weight_bias=own)
        assert got == expected, elements
    assert everything(misaligned(x), misaligned(dy), axis, 2, weight_bias=own) == expected
