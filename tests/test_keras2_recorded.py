"""test_keras2_recorded: layers of Keras 2 as large_peers/record_keras2.py recorded them, fused and not."""

import json
from pathlib import Path

import numpy as np
import pytest

import cbn
import cbn.interop.keras as interop

RECORDED = json.loads((Path(__file__).parent / "keras2_recorded.json").read_text())["cases"]


def batch(seed, shape):
    return np.random.default_rng(seed).normal(1, 0.5, shape).astype(np.float32)


@pytest.mark.parametrize("case", RECORDED)
def test_states(case):
    """Read, it evaluates as Keras 2 did; trained alike, a layer has the same state, and torch's by conversion."""
    weights, shape = [np.float32(weight) for weight in case["weights"]], case["shape"]
    layer = interop.from_weights(weights, case["config"], fused=case["fused"])
    np.testing.assert_allclose(layer.eval()(batch(3, shape)), np.float32(case["evaluated"]), rtol=1e-5, atol=1e-5)
    torchs = cbn.convert(layer, "torch", variance="keep")
    for trained in (layer, torchs):
        trained.train().reset_running_stats()
        for seed in (1, 2):
            trained(batch(seed, shape))
    np.testing.assert_allclose(layer.running_mean, weights[-2], rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, weights[-1], rtol=1e-5)
    np.testing.assert_allclose(cbn.convert(layer, "torch").running_var, torchs.running_var, rtol=1e-6)
