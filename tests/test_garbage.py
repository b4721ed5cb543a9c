"""test_garbage: objects whose attributes were replaced by anything: each call works or raises, and nothing crashes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cbn

PARTS = 61  # of which one is run here, and all of them by .ci/full


def test_every_attribute_and_every_method():
    code = Path(__file__).parent / "garbage.py"
    done = subprocess.run([sys.executable, str(code), "7", str(PARTS)], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}ended with {done.returncode} at {done.stderr.splitlines()[-1]}"
    _, passed, _, raised, _, _ = done.stdout.split()
    assert int(passed) > 1000 and int(raised) > 1000


def test_what_crashed_before():
    """Counters and histories that the compiled code would write beyond."""
    x = np.ones((4, 3), np.float32)
    layer = cbn.BatchNorm(3, zero_debias=True)
    layer.num_batches_tracked = None
    with pytest.raises(TypeError, match="num_batches_tracked must be an int64 array of one value; got None"):
        layer(x)
    for options in ({}, {"virtual_batch_size": 2}):
        for history in (np.zeros(1), np.zeros(2, np.int8), [0, 1]):
            layer = cbn.BatchNorm(3, **options)
            layer._history = history
            with pytest.raises(TypeError, match="the layer's _history must be a float64 array of two values; got"):
                layer(x)
            assert (layer.running_mean == 0).all() and layer.num_batches_tracked == 0
    layer._history = np.zeros(4)[::2]
    with pytest.raises(ValueError, match="the layer's _history must be contiguous, aligned and writeable"):
        layer(x)


def test_an_eps_that_equals_nothing():
    layer = cbn.BatchNorm(3)
    layer.eps = float("nan")
    layer.load_state_dict(dict(layer.state_dict()))
    with pytest.raises(ValueError, match=r"state must come from a layer with eps nan; got 1e-05"):
        layer.load_state_dict(cbn.BatchNorm(3).state_dict())
