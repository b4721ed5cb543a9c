"""test_torch_states: states of torch's batch norms, in and out, against torch."""

import copy
from collections import OrderedDict

import numpy as np
import pytest

import cbn
import cbn.interop.torch as interop

torch = pytest.importorskip("torch")

DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Model(torch.nn.Module):
    """Norms at several depths."""

    def __init__(self):
        super().__init__()
        self.bn1 = torch.nn.BatchNorm2d(3, eps=1e-3, momentum=0.2)
        self.block = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1), torch.nn.BatchNorm2d(5, momentum=None))
        self.last = torch.nn.BatchNorm2d(5, affine=False)

    def forward(self, x):
        return self.last(self.block(self.bn1(x)))


def trained(module, shape=(6, 3, 4, 4), calls=3):
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    for _ in range(calls):
        module(torch.randn(shape, dtype=next(module.buffers()).dtype) * 2 + 1)
    return module


def assert_same(states, wanted):
    assert list(states) == list(wanted)
    for key, value in wanted.items():
        assert states[key].dtype == value.dtype and torch.equal(states[key], value), key


@pytest.mark.parametrize("name", ["bn1", "block.1", "last"])
def test_a_model_of_norms(name):
    """In: evaluation and the next training batch agree. Out: bit for bit what torch had."""
    model = trained(Model())
    peer = model.get_submodule(name)
    layer = interop.from_state_dict(model.state_dict(), name, eps=peer.eps, momentum=peer.momentum)
    assert layer.count is None and layer.num_batches_tracked == 3
    prefixed = OrderedDict((f"{name}.{key}", value) for key, value in peer.state_dict().items())
    assert_same(interop.to_state_dict(layer, name), prefixed)
    x = torch.randn(4, layer.num_features, 3, 3)
    for mode in (False, True):
        wanted = peer.train(mode)(x).detach().numpy()
        np.testing.assert_allclose(layer.train(mode)(x.numpy()), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.running_mean, peer.running_mean.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.running_var, peer.running_var.numpy(), rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("affine", [True, False])
def test_dtypes_round_trip(dtype, affine):
    peer = torch.nn.BatchNorm1d(4, affine=affine, dtype=DTYPES[dtype])
    peer = trained(peer, (8, 4)) if dtype.endswith(("32", "64")) else peer
    layer = interop.from_state_dict(peer.state_dict())
    assert layer.dtype.name == dtype
    assert_same(interop.to_state_dict(layer), peer.state_dict())


def test_into_torch_and_on():
    """A layer that was trained under Keras' convention goes on in torch as if it had been there from the start."""
    rng = np.random.default_rng(0)
    xs = rng.normal(1, 2, (4, 6, 3)).astype(np.float32)
    layer, peer = cbn.BatchNorm(3, momentum=0.9, convention="keras"), torch.nn.BatchNorm1d(3, eps=1e-3)
    other = copy.deepcopy(peer)
    for x in xs[:3]:
        layer(x)
        peer(torch.from_numpy(x))
    other.load_state_dict(interop.to_state_dict(layer))
    for x in (xs[3], rng.random((9, 3), np.float32)):
        peer(torch.from_numpy(x)), other(torch.from_numpy(x))
    np.testing.assert_allclose(other.running_var, peer.running_var, rtol=1e-6)
    np.testing.assert_allclose(other.running_mean, peer.running_mean, rtol=1e-5)
    assert other.num_batches_tracked == peer.num_batches_tracked


def test_back_from_torch_to_keras():
    """torch's states do not have n; given n, the conversion is exact, since the counter says what the start weighs."""
    rng = np.random.default_rng(0)
    peer, layer = torch.nn.BatchNorm1d(3, eps=1e-3), cbn.BatchNorm(3, momentum=0.9, convention="keras")
    for x in rng.normal(1, 2, (4, 6, 3)).astype(np.float32):
        peer(torch.from_numpy(x))
        layer(x)
    got = interop.from_state_dict(peer.state_dict(), eps=1e-3)
    np.testing.assert_allclose(cbn.convert(got, "keras", count=6).running_var, layer.running_var, rtol=1e-6)
    with pytest.raises(ValueError, match="count must be given"):
        cbn.convert(got, "keras")


def test_metadata_of_cbn_survive_a_model_state():
    """eps and count come back, under the prefix."""
    layer = cbn.BatchNorm(3, eps=0.5)
    layer(np.random.default_rng(0).random((6, 3), np.float32))
    state = Model().state_dict()
    own = interop.to_state_dict(layer, "bn1.")
    state.update(own)
    state._metadata.update(own._metadata)
    back = interop.from_state_dict(state, "bn1")
    assert back.eps == 0.5 and back.count == 6
    Model().load_state_dict(state)
    with pytest.raises(ValueError, match=r"state must come from a layer with eps 0\.1; got 0\.5"):
        interop.from_state_dict(state, "bn1", eps=0.1)


def test_versions():
    """Version 1 had no counter; torch itself fills it in."""
    layer = cbn.BatchNorm(3)
    layer(np.random.default_rng(0).random((6, 3), np.float32))
    old = interop.to_state_dict(layer, version=1)
    assert "num_batches_tracked" not in old and old._metadata[""]["version"] == 1
    torch.nn.BatchNorm1d(3).load_state_dict(old)
    assert interop.from_state_dict(old).num_batches_tracked == 0
    new = interop.to_state_dict(layer)
    del new["num_batches_tracked"]
    with pytest.raises(ValueError, match="got no num_batches_tracked"):
        interop.from_state_dict(new)
    with pytest.raises(ValueError, match="version must be 1 or 2; got 3"):
        interop.to_state_dict(layer, version=3)


def test_safetensors_file_of_a_model(tmp_path):
    """Written by torch, read without it."""
    safetensors = pytest.importorskip("safetensors")
    from safetensors.numpy import load_file
    from safetensors.torch import save_file

    assert safetensors
    model = trained(Model())
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    layer = interop.from_state_dict(load_file(tmp_path / "model.safetensors"), "block.1", momentum=None)
    assert_same(interop.to_state_dict(layer), model.block[1].state_dict())


def test_parameters_that_need_gradients():
    peer = torch.nn.BatchNorm1d(3)
    layer = interop.from_state_dict({"weight": peer.weight, "bias": peer.bias})
    assert not layer.track_running_stats
    layer.weight[...] = 5
    assert (peer.weight == 1).all()
    own = cbn.BatchNorm(3, track_running_stats=False)
    own.load_state_dict({"weight": peer.weight, "bias": peer.bias.bfloat16()})
    assert (own.weight == 1).all()


@pytest.mark.parametrize(
    "tensor", [torch.ones(3, device="meta"), torch.ones(3).to_sparse(), torch.ones(3, dtype=torch.cfloat)]
)
def test_tensors_that_are_no_arrays(tensor):
    with pytest.raises(TypeError, match="weight must be an array of real numbers; got"):
        interop.from_state_dict({"weight": tensor})
    with pytest.raises(TypeError, match="weight must be an array of real numbers; got"):
        cbn.BatchNorm(3).load_state_dict({"weight": tensor}, strict=False)
