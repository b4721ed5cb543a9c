"""test_huge: more than 2**31 values, of which most take no memory: their sums, and in .ci/full what y and dx are."""

import os

import numpy as np
import pytest

import cbn

MANY = 2**31 + 17
F16 = np.float16
writes = pytest.mark.skipif(not os.environ.get("CBN_HUGE"), reason="takes 5 GB of memory; .ci/full sets CBN_HUGE")


def zeros_but_last(shape):
    """Zeros, which no memory holds until they are written; and a 1 at the end, which is lost if a size is cut."""
    x = np.zeros(shape, F16)
    x[(-1,) * x.ndim] = 1
    return x


SHAPES = {
    "rows": ((1, 1, MANY), 1),
    "planes": ((2, 1, MANY // 2 + 1), 1),
    "columns": ((MANY // 2 + 1, 2), 1),
    "NHWC": ((1, MANY // 4 + 1, 1, 4), -1),
}


def expected(shape, axis):
    """count, mean and m2 of the last channel; the others are 0."""
    count = int(np.prod(shape, dtype=np.int64)) // shape[axis]
    return count, 1 / count, 1 - 1 / count


@pytest.mark.parametrize(
    "name", ["rows", "columns", *(pytest.param(name, marks=writes) for name in ("planes", "NHWC"))]
)
def test_moments(name):
    shape, axis = SHAPES[name]
    moments = cbn.moments(zeros_but_last(shape), axis=axis)
    count, mean, m2 = expected(shape, axis)
    assert moments.count == count and not moments.mean[:-1].any() and not moments.m2[:-1].any()
    np.testing.assert_allclose([moments.mean[-1], moments.m2[-1]], [mean, m2], rtol=1e-11)


@writes
@pytest.mark.parametrize("name", SHAPES)
def test_training_in_place(name):
    """y, the running statistics and the gradients, all in the memory of x; backward in that of dy."""
    shape, axis = SHAPES[name]
    channels = shape[axis]
    count, mean, m2 = expected(shape, axis)
    x = zeros_but_last(shape)
    running = np.zeros(channels), np.ones(channels)
    cbn.batch_norm(x, *running, training=True, momentum=1.0, eps=0.25, axis=axis, out=x)
    np.testing.assert_allclose([running[0][-1], running[1][-1]], [mean, m2 / (count - 1)], rtol=1e-11)
    flat = x.reshape(-1)
    assert flat[-1] == 2 and flat[0] == flat[count // 2] == flat[-2] == 0  # 1 / sqrt(0 + eps), and -mean of it
    cbn.batch_norm(x, np.ones(channels), np.full(channels, 3.0), eps=1.0, axis=axis, out=x)
    assert flat[-1] == 0.5 and flat[0] == flat[count // 2] == flat[-2] == -0.5


@writes
def test_backward_in_place():
    x, dy = np.zeros((1, 1, MANY), F16), zeros_but_last((1, 1, MANY))
    dx, dweight, dbias = cbn.batch_norm_backward(dy, x, [0.0], [2.0], out=dy)
    assert dx is dy and (dweight[0], dbias[0]) == (0, 1)
    assert dx[0, 0, -1] == 2 and abs(dx[0, 0, 0]) < 1e-6


@writes
def test_sparse_file(tmp_path):
    """Of 8 GB by its size, which a few pages hold; read once and never written."""
    path = tmp_path / "x"
    with path.open("wb") as file:
        file.truncate(4 * MANY)
        file.seek(4 * (MANY - 1))
        file.write(np.float32(1).tobytes())
    x = np.memmap(path, np.float32, "r", shape=(MANY, 1))
    moments = cbn.moments(x)
    assert moments.count == MANY
    np.testing.assert_allclose([moments.mean[0], moments.m2[0]], [1 / MANY, 1 - 1 / MANY], rtol=1e-11)


@writes
def test_one_value_in_many_places():
    """Stride 0: copied, and so within what memory there is."""
    x = np.broadcast_to(F16(3), (1, MANY))
    moments = cbn.moments(x.T)
    assert (moments.count, moments.mean[0], moments.m2[0]) == (MANY, 3, 0)


@writes
def test_normalizer():
    x = zeros_but_last((MANY, 1))
    normalizer = cbn.FeatureNormalizer().partial_fit(x)
    assert normalizer.moments.count == MANY and normalizer.transform(x[-2:]).shape == (2, 1)
