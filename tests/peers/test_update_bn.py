"""test_update_bn: recompute_statistics against torch's update_bn and a pooled run of torch's layers, in float64."""

import numpy as np
import pytest

import cbn

torch = pytest.importorskip("torch")

SIZES = [(16, 16, 16), (100, 2), (8, 31, 3, 8)]


def network():
    """Norms at several depths, one of them called twice, in float64, with statistics from elsewhere."""
    torch.manual_seed(0)
    shared = torch.nn.BatchNorm2d(5, eps=1e-3)
    block = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), shared, torch.nn.ReLU(), torch.nn.Conv2d(5, 5, 1), shared)
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(80, 6), torch.nn.BatchNorm1d(6, affine=False))
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3, momentum=0.3), block, head).double()
    for norm in norms(model).values():
        norm.running_mean.normal_()
    return model


def norms(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)}


def with_layers_of_ours(model):
    """{name: layer}, and the model's forward with those in the place of its norms."""
    layers = {}
    for name, norm in norms(model).items():
        layers[name] = cbn.BatchNorm(norm.num_features, norm.eps, affine=norm.affine, dtype=np.float64)
        layers[name].load_state_dict(norm.state_dict())
        norm.forward = lambda x, layer=layers[name]: torch.from_numpy(layer(x.detach().numpy()))
    return layers, model


def data(sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 3, 6, 6, generator=generator, dtype=torch.float64) * (k + 1) for k, n in enumerate(sizes)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_as_torchs_update_bn(sizes):
    peer = network()
    torch.optim.swa_utils.update_bn(data(sizes), peer)
    layers, forward = with_layers_of_ours(network())
    with torch.no_grad():
        cbn.recompute_statistics(layers, data(sizes), forward, mode="update_bn")
    for name, norm in norms(peer).items():
        np.testing.assert_allclose(layers[name].running_mean, norm.running_mean, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(layers[name].running_var, norm.running_var, rtol=1e-10)
        assert layers[name].num_batches_tracked == norm.num_batches_tracked
    assert layers["1.1"].num_batches_tracked == 2 * len(sizes)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_pooled_is_the_variance_of_all_that_torchs_layers_saw(sizes):
    peer, seen = network(), {}
    for name, norm in norms(peer).items():
        seen[name] = []
        norm.register_forward_hook(lambda _, x, y, name=name: seen[name].append(x[0].detach().numpy()))
    for batch in data(sizes):
        peer(batch)
    layers, forward = with_layers_of_ours(network())
    with torch.no_grad():
        cbn.recompute_statistics(layers, data(sizes), forward)
    for name, layer in layers.items():
        x = np.concatenate([np.moveaxis(batch, 1, 0).reshape(layer.num_features, -1) for batch in seen[name]], axis=1)
        np.testing.assert_allclose(layer.running_mean, x.mean(axis=1), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(layer.running_var, x.var(axis=1, ddof=1), rtol=1e-10)


def test_the_small_last_batch():
    """With it update_bn gives more than four times the variance of all data, as torch does."""
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((100, 1)), np.array([[2.0], [-2.5]])]
    layers = {mode: cbn.BatchNorm(1, dtype=np.float64) for mode in ("pooled", "update_bn")}
    for mode, layer in layers.items():
        cbn.recompute_statistics(layer, batches, mode=mode)
    peer = torch.nn.BatchNorm1d(1).double()
    torch.optim.swa_utils.update_bn([torch.from_numpy(b) for b in batches], peer)
    np.testing.assert_allclose(layers["update_bn"].running_var, peer.running_var, rtol=1e-12)
    np.testing.assert_allclose(layers["pooled"].running_var, np.concatenate(batches).var(ddof=1), rtol=1e-12)
    assert layers["update_bn"].running_var > 4 * layers["pooled"].running_var
