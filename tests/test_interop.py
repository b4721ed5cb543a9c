"""test_interop: what converters refuse, and what they do without the libraries of the other systems."""

import sys
import threading
import time
from collections import OrderedDict

import numpy as np
import pytest

import cbn
from cbn.interop import flax, keras, sklearn, torch
from cbn.libraries import library

ONES = np.ones(3, np.float32)
TORCH = {"bn.weight": ONES, "bn.bias": ONES, "bn.running_mean": ONES, "bn.running_var": ONES, "conv.weight": ONES}
KERAS = [2 * ONES, 3 * ONES, 4 * ONES, 5 * ONES]
NAMED = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), KERAS, strict=True))
FLAX = {
    "params": {"bn": {"scale": ONES}, "dense": {"kernel": ONES}},
    "batch_stats": {"bn": {"mean": ONES, "var": ONES}},
}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1],), TypeError, "state must be a dict of arrays; got list"),
        ((TORCH,), ValueError, r"prefix must be the name of a batch norm \(bn\); got '', with bn.weight, bn.bias"),
        ((TORCH, "norm"), ValueError, r"prefix must be the name of a batch norm \(bn\); got 'norm', with no keys"),
        (({}, "norm"), ValueError, r"prefix must be the name of a batch norm \(there is none\); got 'norm'"),
        ((TORCH, 1), TypeError, "prefix must be a text; got int"),
        (
            ({**TORCH, "bn.more": ONES}, "bn"),
            ValueError,
            "got 'bn', with weight, bias, running_mean, running_var, more",
        ),
        (
            ({**TORCH, "bn.bias": np.ones(4)}, "bn"),
            ValueError,
            r"bn.bias must have shape \(3,\), as bn.weight has; got",
        ),
        (({**TORCH, "bn.bias": np.ones((3, 1))}, "bn"), ValueError, r"bn.bias must have rank 1; got shape \(3, 1\)"),
        (({**TORCH, "bn.bias": "abc"}, "bn"), TypeError, "bn.bias must be an array of real numbers; got <U3"),
        (({**TORCH, "bn.bias": [[1], [2, 3]]}, "bn"), TypeError, "bn.bias must be an array of real numbers; got list"),
        (({**TORCH, "bn.running_var": -ONES}, "bn"), ValueError, "bn.running_var must be >= 0; got -1.0"),
        (
            ({"running_mean": ONES},),
            ValueError,
            "mean and variance must both be given or neither; got running_mean only",
        ),
        (
            ({"num_batches_tracked": 1},),
            ValueError,
            "state must have an array of a batch norm; got num_batches_tracked",
        ),
    ],
)
def test_torch_states(arguments, error, message):
    with pytest.raises(error, match=message):
        torch.from_state_dict(*arguments)


def test_torch_prefixes():
    for prefix in ("bn", "bn."):
        layer = torch.from_state_dict(TORCH, prefix, eps=0.5, momentum=None, axis=-1)
        assert (layer.eps, layer.momentum, layer.axis, layer.num_batches_tracked) == (0.5, None, -1, 0)
    frozen = OrderedDict(TORCH)
    frozen._metadata = {"bn": {"version": 3}}  # Detectron2's frozen norms have no counter
    assert torch.from_state_dict(frozen, "bn").num_batches_tracked == 0
    half = {key: value.astype(np.float16) for key, value in TORCH.items()}
    half["bn.running_var"] = ONES  # the widest counts
    assert torch.from_state_dict(half, "bn").dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((5,), TypeError, "weights must be a list or dict of arrays; got int"),
        ((KERAS, [1]), TypeError, "config must be a dict; got list"),
        ((KERAS[:3],), ValueError, "config must have scale and center where weights lack one of gamma and beta"),
        ((KERAS, {"scale": False}), ValueError, "weights must be beta, moving_mean, moving_variance; got 4 arrays"),
        ((KERAS[:1],), ValueError, "weights must be moving_mean, moving_variance; got 1 arrays"),
        (({"gamma": ONES},), ValueError, "weights must have all that belong together of gamma, .*; got gamma"),
        (({"moving_mean": ONES, "moving_variance": ONES, "kernel": ONES},), ValueError, "got moving_mean, .*, kernel"),
        ((KERAS, {"class_name": "BatchNormalization", "config": {}}), ValueError, "config must be what get_config"),
        ((KERAS, {"virtual_batch_size": 8}), ValueError, "virtual_batch_size must be None, as in Keras 3; got 8"),
        ((dict(zip("abcd", KERAS, strict=True)),), ValueError, "weights must have all that belong together of gamma"),
        (({**NAMED, "moving_stddev": ONES},), ValueError, "weights must have all that belong together of gamma"),
        ((NAMED, {"center": False}), ValueError, "config must have center=True for these weights; got False"),
        ((NAMED, {"renorm": True}), ValueError, "config must have renorm=False for these weights; got True"),
        ((7 * [ONES], {"renorm_momentum": None}), TypeError, r"renorm_momentum must be a number in \[0, 1\]; got None"),
        ((7 * [ONES], {"renorm_momentum": 2}), ValueError, r"renorm_momentum must be a number in \[0, 1\]; got 2"),
        ((KERAS, {"momentum": 2}), ValueError, r"momentum must be a number in \[0, 1\]; got 2"),
        (([*KERAS[:3], np.ones(4)],), ValueError, r"moving_variance must have shape \(3,\), as gamma has; got"),
    ],
)
def test_keras_weights(arguments, error, message):
    with pytest.raises(error, match=message):
        keras.from_weights(*arguments)


def test_keras_orders():
    layer = keras.from_weights(KERAS, {"axis": [3]})  # as Keras 2 wrote it
    assert layer.axis == 3 and [a[0] for a in (layer.weight, layer.bias, layer.running_mean)] == [2, 3, 4]
    layer = keras.from_weights(KERAS[1:], {"scale": False, "center": True})
    assert layer.weight is None and layer.bias[0] == 3
    layer = keras.from_weights(KERAS[2:])
    assert not layer.affine and layer.running_var[0] == 5
    weights = {"moving_variance": KERAS[3], "moving_mean": KERAS[2], "gamma": KERAS[0]}
    assert keras.from_weights(weights).bias is None


def test_keras_counts_and_fused_variances():
    """Of Keras 2 on images the moving variance is unbiased, as torch's; of a start that is known, a share stays."""
    config = {"momentum": 0.9}
    layer = keras.from_weights(KERAS, config, fused=True)
    np.testing.assert_array_equal(cbn.convert(layer, "torch").running_var, 5)
    np.testing.assert_allclose(cbn.convert(layer, "keras", count=5).running_var, 4)
    layer = keras.from_weights(KERAS, config, num_batches=2)
    assert layer.num_batches_tracked == 2
    np.testing.assert_allclose(cbn.convert(layer, "torch", count=5).running_var, 0.81 + (5 - 0.81) * 5 / 4, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((5,), TypeError, "variables must be a dict; got int"),
        ((FLAX, 3), TypeError, "path must be a text; got int"),
        ((FLAX,), ValueError, r"path must lead to mean, var .* scale and bias \(bn\); got '', with bn, dense"),
        ((FLAX, "dense"), ValueError, "got 'dense', with kernel"),
        ((FLAX, "bn/mean"), ValueError, "got 'bn/mean', with nothing"),
        ((FLAX, "block/bn"), ValueError, "got 'block/bn', with nothing"),
    ],
)
def test_flax_variables(arguments, error, message):
    with pytest.raises(error, match=message):
        flax.from_variables(*arguments)


def test_flax_paths():
    assert flax.from_variables(FLAX, "bn").bias is None
    assert flax.from_variables({"params": {"scale": ONES, "mean": ONES, "var": ONES}}, "params").bias is None
    with pytest.raises(TypeError, match="mean must be an array without a mask"):
        flax.from_variables({"mean": np.ma.masked_array(ONES), "var": ONES})
    assert flax.from_variables({"norms": {0: {"mean": ONES, "var": ONES}}}, "norms/0").num_features == 3
    assert flax.to_variables(cbn.BatchNorm(1, affine=False), "a/b", nnx=True)["a"]["b"].keys() == {"mean", "var"}


EXPORTS = [torch.to_state_dict, keras.to_weights, flax.to_variables, sklearn.to_scaler]


@pytest.mark.parametrize("export", EXPORTS)
def test_what_no_system_takes(export):
    if export is torch.to_state_dict:
        pytest.importorskip("torch")
    with pytest.raises(TypeError, match="layer must be a BatchNorm; got dict"):
        export({})
    with pytest.raises(ValueError, match=r"layer must have no activation, which .* would lose; got 'relu'"):
        export(cbn.BatchNorm(3, activation="relu"))
    layer = cbn.BatchNorm(3, convention="keras" if export is torch.to_state_dict else "torch")
    layer.running_var[...] = 2
    with pytest.raises(ValueError, match="count must be given"):
        export(layer)
    export(layer, count=7), export(layer, variance="keep")
    if export is not torch.to_state_dict:
        with pytest.raises(ValueError, match=r"layer must have running statistics, as in .*; got track_running_stats"):
            export(cbn.BatchNorm(3, track_running_stats=False))
    if export is not keras.to_weights:
        renormalized = cbn.BatchNorm(3, renorm=True)
        with pytest.raises(ValueError, match=r"variance must be 'keep' for a layer with renorm, which .* lacks"):
            export(renormalized)
        export(renormalized, variance="keep")


def test_no_plain_average_in_keras():
    with pytest.raises(ValueError, match="momentum must be a number, since Keras has no plain average; got None"):
        keras.to_weights(cbn.BatchNorm(3, momentum=None))


@pytest.mark.parametrize(("export", "name"), [(torch.to_state_dict, "torch"), (sklearn.to_scaler, "sklearn")])
def test_without_the_library(export, name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "sklearn.preprocessing", raising=False)
    with pytest.raises(ImportError, match=rf"{name} must be installed \(pip install 'cbn\[{name}\]'\)"):
        export(cbn.BatchNorm(3))


def test_a_library_that_another_thread_imports(tmp_path, monkeypatch):
    """It is whole when `library` returns it."""
    (tmp_path / "slow_library.py").write_text("import time\ntime.sleep(0.2)\nname = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    other = threading.Thread(target=library, args=("slow_library", "slow"))
    other.start()
    while other.is_alive() and "slow_library" not in sys.modules:
        time.sleep(0.001)
    assert library("slow_library", "slow").name == 1
    other.join()


def test_bfloat16_weights():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    layer = keras.from_weights([a.astype(ml_dtypes.bfloat16) for a in KERAS])
    assert layer.dtype == ml_dtypes.bfloat16 and layer.running_var[0] == 5
