"""test_odd_arguments: what NumPy takes for a number, or makes no array of, is an error that names the argument."""

import numpy as np
import pytest

import cbn

SPAN = np.timedelta64(1, "s")  # which is registered as an integer
RAGGED = [[1.0], [1.0, 2.0]]
X = np.float32([[1, 2], [3, 5]])
CALLS = {
    "num_threads": lambda: cbn.moments(X, num_threads=SPAN),
    "axis": lambda: cbn.moments(X, axis=SPAN),
    "eps": lambda: cbn.batch_norm_forward(X, eps=SPAN),
    "momentum": lambda: cbn.BatchNorm(2, momentum=SPAN),
    "affine": lambda: cbn.BatchNorm(2, affine=SPAN),
    "count": lambda: cbn.Moments(SPAN, [0.0], [1.0]),
    "samples": lambda: cbn.BatchNorm(2).drift(X, samples=SPAN),
    "x": lambda: cbn.batch_norm_forward(RAGGED),
    "x of rank 2": lambda: cbn.BatchNorm1d(2)(RAGGED),
    "mask": lambda: cbn.moments(X, mask=RAGGED),
    "weight": lambda: cbn.batch_norm_forward(X, RAGGED),
}


@pytest.mark.parametrize("name", CALLS)
def test_argument_is_named(name):
    with pytest.raises(TypeError, match=f"^{name.split()[0]} must "):
        CALLS[name]()


def test_time_span_as_a_bound_of_renorm():
    with pytest.raises(ValueError, match=r"^renorm_clipping must have numbers"):
        cbn.BatchNorm(2, renorm=True, renorm_clipping={"rmax": SPAN})


@pytest.mark.parametrize("number", [SPAN, "1", 1j])
def test_metadata_of_a_state_are_numbers(number):
    layer = cbn.BatchNorm(2)
    state = layer.state_dict()
    state._metadata[""]["count"] = number
    with pytest.raises(TypeError, match=r"^state must have a number for count"):
        layer.load_state_dict(state)


def test_count_of_a_state_may_be_a_float32():
    layer = cbn.BatchNorm(2)
    state = layer.state_dict()
    state._metadata[""]["count"] = np.float32(8)
    layer.load_state_dict(state)
    assert layer.count == 8


def test_affine_map_of_a_channel_that_is_not_finite():
    layer = cbn.BatchNorm(3)
    layer.running_mean[:], layer.running_var[:] = (1, np.inf, 1), (1, np.inf, np.nan)
    scale, shift = layer.affine_map()
    np.testing.assert_array_equal(np.isfinite(scale), [True, True, False])
    np.testing.assert_array_equal(np.isfinite(shift), [True, False, False])
