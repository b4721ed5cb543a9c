"""test_flax_recorded: Flax' states as large_peers/record_flax.py recorded them, and what Flax made of them."""

import json
from pathlib import Path

import numpy as np
import pytest

import cbn
import cbn.interop.flax as interop

RECORDED = json.loads((Path(__file__).parent / "flax_recorded.json").read_text())["cases"]


def arrays(tree):
    return {key: arrays(value) for key, value in tree.items()} if isinstance(tree, dict) else np.float32(tree)


def batch(seed):
    return np.random.default_rng(seed).normal(1, 0.5, (5, 3, 2)).astype(np.float32)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
@pytest.mark.parametrize("case", RECORDED, ids=[case["name"] for case in RECORDED])
def test_states(case, kind):
    """Read, it evaluates as Flax did; trained as Flax was, a layer has Flax' state."""
    recorded, options = case[kind], case["options"]
    path = "norm" if kind == "linen" else ""
    numbers = {own: options[name] for own, name in (("eps", "epsilon"), ("momentum", "momentum")) if name in options}
    numbers["axis"] = options.get("axis", -1)
    variables = arrays(recorded["variables"])
    layer = interop.from_variables(variables, path, **numbers)
    np.testing.assert_allclose(layer.eval()(batch(3)), np.float32(recorded["evaluated"]), rtol=1e-5, atol=1e-5)
    layer.reset_running_stats()
    layer.train()(batch(1))
    np.testing.assert_allclose(layer(batch(2)), np.float32(recorded["y"]), rtol=1e-5, atol=1e-5)
    got = interop.to_variables(layer, path, nnx=kind == "nnx")
    statistics = variables["batch_stats"]["norm"] if kind == "linen" else variables
    mine = got["batch_stats"]["norm"] if kind == "linen" else got
    for name in ("mean", "var"):
        np.testing.assert_allclose(mine[name], statistics[name], rtol=1e-5)
    shape = {key: sorted(value["norm"]) for key, value in got.items()} if path else sorted(got)
    wanted = {key: sorted(value["norm"]) for key, value in variables.items()} if path else sorted(variables)
    assert shape == wanted


def test_convention_that_flax_means():
    """The biased variance: torch's layer becomes Flax' by conversion."""
    case = next(case for case in RECORDED if case["name"] == "other numbers")
    layer = cbn.BatchNorm(2, eps=1e-3, momentum=0.25, axis=-1)
    for seed in (1, 2):
        layer(batch(seed))
    wanted = case["nnx"]["variables"]["var"]
    np.testing.assert_allclose(interop.to_variables(layer, nnx=True)["var"], wanted, rtol=1e-5)
    assert abs(layer.running_var - wanted).max() > 1e-3
