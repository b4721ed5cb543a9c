"""test_streaming_accuracy: sums of thousands of batches, in order and not, against the exact moments."""

import json
from fractions import Fraction

import numpy as np
import pytest

import cbn


def bits(moments):
    return moments.count, moments.mean.tobytes(), moments.m2.tobytes()


def ramp(offset, width):
    return np.linspace(offset, offset + width, 30000)


DRIFTING = {
    "sorted": np.sort(np.random.default_rng(0).normal(1e6, 1, 30000)),
    "sorted, around 0": np.sort(np.random.default_rng(0).normal(0, 1, 30000)),
    "ramp": ramp(1e6, 30000),
    "ramp from 0": ramp(0.0, 30000),
    "short ramp": ramp(1000.0, 3).astype(np.float32),
    "huge": ramp(1e150, 3e149),
    "tiny": ramp(1e-150, 3e-151),
}


@pytest.mark.parametrize("size", [1, 2, 50])
@pytest.mark.parametrize("name", DRIFTING)
def test_batches_in_order_do_not_drift(name, size):
    """Against the exact moments, in rationals."""
    x = DRIFTING[name]
    found = cbn.population_moments(x[i : i + size, np.newaxis] for i in range(0, len(x), size))
    values = [Fraction(float(value)) for value in x]
    mean = sum(values) / len(values)
    m2 = sum((value - mean) ** 2 for value in values)
    std = float(m2 / len(values)) ** 0.5
    assert abs(Fraction(float(found.mean[0])) - mean) <= 1e-12 * (abs(float(mean)) + std)
    assert abs(float(Fraction(float(found.m2[0])) / m2 - 1)) <= 1e-12 + 2e-16 * abs(float(mean)) / std


def test_a_restart_keeps_the_digits_of_the_running_mean(tmp_path):
    """Which `Moments.load` tolerates, and only in such a file."""
    path, x = tmp_path / "run.npz", DRIFTING["sorted"].reshape(-1, 2, 1)

    def stopping():
        yield from x[:4999]
        raise OSError

    with pytest.raises(OSError):
        cbn.population_moments(stopping(), checkpoint=path)
    found = bits(cbn.population_moments(iter(x), checkpoint=path))
    assert found == bits(cbn.Moments.load(path)) == bits(cbn.population_moments(iter(x)))
    assert found != bits(sum(map(cbn.moments, x[1:]), start=cbn.moments(x[0])))  # which round the mean every time
    with np.load(path) as archive:
        arrays = dict(archive)
    meta = json.loads(arrays["meta"].tobytes())
    assert arrays["mean_rest"].any()
    del meta["run"]
    np.savez(path, **{**arrays, "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)})
    with pytest.raises(ValueError, match="the arrays must be mean, m2; got"):
        cbn.Moments.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.7e308])
def test_what_is_not_finite_is_as_in_sums_of_moments(value):
    x = np.random.default_rng(0).normal(0, 1, (6, 4, 2))
    x[2, 1], x[3, 2], x[4, 2] = value, value, -value
    parts = [x[:0], *np.split(x, 6), x[:0]]
    found, expected = cbn.population_moments(parts), sum(map(cbn.moments, parts[1:]), start=cbn.moments(parts[0]))
    for name in ("mean", "m2"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-14)
