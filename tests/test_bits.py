"""test_bits: the same bits for any instruction set, number of threads, alignment, in place or not, and every run."""

import ctypes
import platform
import subprocess

import numpy as np
import pytest
from cases import DTYPES, filled, gradient, misaligned, parameters

import cbn

# large enough that threads really share the work, in every branch of the plan
SHAPES = [
    ("rows-few-channels", (4, 3, 120, 130), 1),
    ("rows-many-channels", (3, 96, 30, 31), 1),
    ("one-large-image", (1, 2, 500, 501), 1),
    ("small-planes", (33, 130, 7, 7), 1),
    ("NHWC-narrow", (9, 90, 91, 3), -1),
    ("NHWC-wide", (3, 11, 12, 1100), -1),
    ("NC", (2100, 129), 1),
    ("one-column", (200001, 1), 1),
    ("small", (5, 3, 4, 5), 1),
    ("streaming", (3, 5, 600, 601), 1),
    ("shared-tiles", (8, 3, 256, 256), 1),
]
IDS = [name for name, _, _ in SHAPES]


def everything(x, dy, axis, num_threads, in_place=False, weight_bias=None):
    """All results of all operations, as bytes."""
    channels = x.shape[axis]
    weight, bias = weight_bias or parameters(channels, x.dtype)
    running = np.zeros(channels, x.dtype), np.ones(channels, x.dtype)
    arguments = {"axis": axis, "num_threads": num_threads}

    def target(array):
        return {"out": array} if in_place else {}

    source = x.copy() if in_place else x
    y, mean, inv_std = cbn.batch_norm_forward(source, weight, bias, **target(source), **arguments)
    source = dy.copy() if in_place else dy
    gradients = cbn.batch_norm_backward(source, x, mean, inv_std, weight, **target(source), **arguments)
    fixed = cbn.batch_norm_backward(dy, x, mean, inv_std, weight, training=False, **arguments)
    cbn.batch_norm(x, *running, weight, bias, training=True, **arguments)
    source = x.copy() if in_place else x
    inferred = cbn.batch_norm(source, *running, weight, bias, **target(source), **arguments)
    moments = cbn.moments(x, **arguments)
    arrays = (y, mean, inv_std, *gradients, *fixed, *running, inferred, moments.mean, moments.m2)
    return [np.ascontiguousarray(a).tobytes() for a in arrays]


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize(("shape", "axis"), [(shape, axis) for _, shape, axis in SHAPES], ids=IDS)
def test_isa_and_threads(shape, axis, dtype):
    x = filled(shape, axis, dtype, "offset-1e3")
    dy = gradient(x, axis, 5)
    with cbn.use_isa("baseline"):
        expected = everything(x, dy, axis, 1)
    for isa in cbn.available_isas():
        with cbn.use_isa(isa):
            for num_threads in (1, 2, 3, 7):
                assert everything(x, dy, axis, num_threads) == expected, (isa, num_threads)


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
@pytest.mark.parametrize(("shape", "axis"), [(shape, axis) for _, shape, axis in SHAPES], ids=IDS)
def test_in_place(shape, axis, dtype, isa):
    x = filled(shape, axis, dtype)
    dy = gradient(x, axis, 5)
    assert everything(x, dy, axis, 2, in_place=True) == everything(x, dy, axis, 2)


def at_offset(x, elements):
    """A copy of x that begins `elements` elements after a 64-byte boundary."""
    buffer = np.empty(x.size + 64, x.dtype)
    start = -buffer.ctypes.data // x.itemsize % (64 // x.itemsize) + elements
    copy = buffer[start : start + x.size].reshape(x.shape)
    copy[...] = x
    return copy


@pytest.mark.parametrize(("shape", "axis"), [(shape, axis) for _, shape, axis in SHAPES], ids=IDS)
def test_alignment(shape, axis, isa):
    x = filled(shape, axis, np.float32)
    dy = gradient(x, axis, 5)
    expected = everything(x, dy, axis, 2)
    for elements in (0, 1, 7):
        assert everything(at_offset(x, elements), at_offset(dy, elements), axis, 2) == expected
    assert everything(misaligned(x), misaligned(dy), axis, 2) == expected
    y = cbn.batch_norm(x, training=True, axis=axis)
    for elements in (0, 1, 7):
        out = at_offset(x, elements)
        np.testing.assert_array_equal(cbn.batch_norm(x, training=True, axis=axis, out=out), y)


@pytest.mark.parametrize("shape", [(10, 11, 128, 128), (8, 3, 256, 256), (33, 40, 31, 31)])
def test_many_threads_and_anchors_that_are_far(shape, isa):
    """Sums that are taken twice, and more threads than some cuts of the array have work for."""
    x, dy = filled(shape, 1, np.float32, "far-start"), filled(shape, 1, np.float32, seed=4)
    expected = everything(x, dy, 1, 1)
    for num_threads in (2, 9, 16):
        assert everything(x, dy, 1, num_threads) == expected, num_threads


def test_every_run_is_the_same():
    x, dy = filled((7, 40, 50, 51), 1, np.float32), filled((7, 40, 50, 51), 1, np.float32, seed=4)
    assert len({b"".join(everything(x, dy, 1, 3)) for _ in range(5)}) == 1


def test_the_layout_of_a_mixed_block_does_not_matter():
    """A channel that needs doubles does not change the bits of its neighbours in a block of columns."""
    x = filled((60, 20), 1, np.float32)
    weight = np.ones(20, np.float32)
    plain = cbn.batch_norm(x, weight=weight, training=True)
    weight[3] = 1e35
    mixed = cbn.batch_norm(x, weight=weight, training=True)
    others = np.arange(20) != 3
    np.testing.assert_array_equal(mixed[:, others], plain[:, others])
    np.testing.assert_allclose(mixed[:, 3], plain[:, 3].astype(np.float64) * np.float32(1e35), rtol=1e-6)


@pytest.mark.parametrize("shape", [(60, 20), (5, 20, 4), (5, 20, 7, 7), (2, 20, 14, 14), (2, 20, 30, 30)])
def test_a_channel_computed_in_double_does_not_change_its_neighbours(shape, isa):
    """Nor does one in float32: dx of each channel has the bits that it has among channels of its own kind."""
    x = filled(shape, 1, np.float32)
    mean, inv_std = cbn.batch_norm_forward(x)[1:]
    noise, line = filled(shape, 1, np.float32, seed=4), 7 * x + filled(shape, 1, np.float32, seed=5)
    is_line = (np.arange(20) % 3 == 0).reshape(-1, *[1] * (len(shape) - 2))
    dx = [cbn.batch_norm_backward(dy, x, mean, inv_std)[0] for dy in (noise, line, np.where(is_line, line, noise))]
    np.testing.assert_array_equal(dx[2], np.where(is_line, dx[1], dx[0]))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="sets the x86 control register")
@pytest.mark.parametrize(
    "control", [0x1F80 | 0x8040, 0x1F80 | 0x6000, 0x1F80 | 0x2000], ids=["ftz-daz", "to-zero", "down"]
)
def test_rounding_state_of_the_caller(control, tmp_path):
    """Neither matters for results nor is changed. Denormals count: everything here is close to them."""
    source = tmp_path / "csr.c"
    source.write_text(
        "#include <xmmintrin.h>\nunsigned get(void) { return _mm_getcsr(); }\nvoid set(unsigned v) { _mm_setcsr(v); }\n"
    )
    library = tmp_path / "csr.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    csr = ctypes.CDLL(str(library))
    x = filled((5, 4, 100, 101), 1, np.float32, "1e-37") * np.float32(1e-3)
    dy = filled(x.shape, 1, np.float32, seed=4) * np.float32(1e-38)
    arguments = [(x, dy, 1, num_threads, False, parameters(4, np.float32)) for num_threads in (1, 3)]
    expected = [everything(*a) for a in arguments]
    before = csr.get()
    try:
        csr.set(control)
        got = [everything(*a) for a in arguments]
        after = csr.get()
    finally:
        csr.set(before)
    assert got == expected
    assert after & 0xFFC0 == control & 0xFFC0
