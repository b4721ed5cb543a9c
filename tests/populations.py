"""populations: what tests of moments in parts share: their bits, and how near they are to those of the whole."""

import numpy as np

import cbn


def bits(moments):
    return moments.count, moments.mean.tobytes(), moments.m2.tobytes()


def assert_close(found, x, axis=1):
    whole = cbn.moments(x, axis=axis)
    std = np.sqrt(whole.m2 / max(whole.count, 1))
    assert found.count == whole.count
    assert (np.abs(found.mean - whole.mean) <= 1e-12 * (np.abs(whole.mean) + std)).all()
    with np.errstate(all="ignore"):
        bound = 1e-12 + 2e-16 * np.abs(whole.mean) / np.where(std > 0, std, 1)
    assert (np.abs(found.m2 - whole.m2) <= bound * whole.m2).all()
