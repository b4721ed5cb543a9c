"""test_properties: any small array with any options holds the contract."""

import numpy as np
from cases import ALL_DTYPES, LAYOUTS, gradient
from holds import hold
from hypothesis import given, settings
from hypothesis import strategies as st

import cbn


@st.composite
def calls(draw):
    """x, axis, and options; in every channel the values are 16 or more, and not all close to each other."""
    shape = [*draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)), draw(st.integers(8, 40))]
    axis = draw(st.integers(0, len(shape)))
    shape.insert(axis, draw(st.integers(1, 12)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from(ALL_DTYPES))
    offset, scale = draw(st.sampled_from([0, 0.5, 30])), draw(st.sampled_from([0.25, 1, 8]))
    x = (rng.standard_normal(shape) * scale + offset).astype(dtype)
    options = {}
    if draw(st.booleans()):
        options["residual"] = rng.standard_normal(shape).astype(dtype)
    if draw(st.booleans()):
        options["activation"] = draw(st.sampled_from([None, "relu", "leaky_relu"]))
        options["negative_slope"] = draw(st.sampled_from([0, 0.01, 0.3]))
    positions = tuple(np.delete(shape, axis))
    if draw(st.booleans()):
        options["mask"] = rng.random(positions) < 0.7
        options["mask"].flat[:4] = True
    if draw(st.booleans()):
        options["sample_weight"] = rng.choice([0.0, 0.5, 1, 2], positions if draw(st.booleans()) else positions[:1])
        options["sample_weight"].flat[:4] = 1.5
    dy = gradient(x, axis, draw(st.sampled_from([0, 0.5])), seed=5)
    layout = draw(st.sampled_from(["C", "channels_last", "F", "reversed", "strided", "misaligned"]))
    return LAYOUTS[layout](x, axis), axis - draw(st.sampled_from([0, len(shape)])), dy, options


@given(calls(), st.sampled_from(cbn.available_isas()))
@settings(deadline=None, max_examples=300, derandomize=True)
def test_any_call_holds_the_contract(call, isa):
    x, axis, dy, options = call
    counted = np.broadcast_to(options.get("mask", True), np.delete(x.shape, axis))
    if counted.sum() < 16:
        return
    with cbn.use_isa(isa):
        hold(x, axis, 1e-3, dy=dy, param_dtype=np.float32 if x.dtype.itemsize == 2 else None, **options)
