"""test_torch: agreement with PyTorch in float64, and states that load both ways."""

import copy

import numpy as np
import pytest

import cbn

torch = pytest.importorskip("torch")

SHAPES = [(5, 3), (2, 3), (4, 3, 7), (3, 5, 6, 7), (6, 33, 7, 7), (2, 64, 20, 21), (2, 3, 4, 5, 6)]
CLASSES = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}
OPTIONS = [{}, {"momentum": None}, {"momentum": 0.7, "eps": 1e-2}, {"affine": False}, {"track_running_stats": False}]


def pair(shape, dtype, **options):
    """The same layer twice: cbn's and torch's, with random parameters. torch's computes in float64."""
    rng = np.random.default_rng(0)
    name = CLASSES[len(shape)]
    ours = getattr(cbn, name)(shape[1], dtype=dtype, **options)
    theirs = getattr(torch.nn, name)(shape[1], dtype=torch.float64, **options)
    if ours.weight is not None:
        ours.weight[...], ours.bias[...] = rng.standard_normal((2, shape[1]))
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in ours.state_dict().items()})
    return ours, theirs


def close(ours, theirs, dtype, factor=1.0):
    theirs = theirs.detach().numpy()
    tolerance = (1e-12 if dtype == np.float64 else 1e-6) * factor
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * max(1, np.abs(theirs).max(initial=0)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layers_agree(shape, channels_last, options, dtype):
    if channels_last and len(shape) not in (4, 5):
        channels_last = False
    ours, theirs = pair(shape, dtype, **options)
    rng = np.random.default_rng(1)
    for _ in range(3):
        x, dy = (rng.standard_normal((2, *shape)) * 2 + 0.5).astype(dtype)
        if channels_last:
            x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
        tx = torch.from_numpy(x.astype(np.float64)).requires_grad_()
        ty = theirs(tx)
        y = ours(x)
        close(y, ty, dtype)
        theirs.zero_grad()
        ty.backward(torch.from_numpy(dy.astype(np.float64)))
        close(ours.backward(dy), tx.grad, dtype, 10)
        if ours.weight is not None:
            close(ours.weight_grad, theirs.weight.grad, dtype, 5)
            close(ours.bias_grad, theirs.bias.grad, dtype, 5)
        if ours.running_mean is not None:
            close(ours.running_mean, theirs.running_mean, dtype)
            close(ours.running_var, theirs.running_var, dtype)
            assert ours.num_batches_tracked == theirs.num_batches_tracked.item()
    ours.eval()
    theirs.eval()
    close(ours(x), theirs(tx), dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_functional_agrees(shape):
    rng = np.random.default_rng(2)
    x, (mean, weight, bias), var = rng.standard_normal(shape), rng.standard_normal((3, shape[1])), rng.random(shape[1])
    arrays = [mean, var, weight, bias]
    tensors = [torch.from_numpy(a.copy()) for a in arrays]
    for training in (True, False):
        y = cbn.batch_norm(x, *arrays, training, 0.3, 1e-4)
        ty = torch.nn.functional.batch_norm(torch.from_numpy(x), *tensors, training, 0.3, 1e-4)
        close(y, ty, np.float64)
        close(mean, tensors[0], np.float64)
        close(var, tensors[1], np.float64)
    gx = torch.from_numpy(x).requires_grad_()
    dy = rng.standard_normal(shape)
    torch.nn.functional.batch_norm(gx, *tensors, False, 0.3, 1e-4).backward(torch.from_numpy(dy))
    dx = cbn.batch_norm_backward(dy, x, mean, 1 / np.sqrt(var + 1e-4), weight, training=False)[0]
    close(dx, gx.grad, np.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_oracle_agrees(shape):
    rng = np.random.default_rng(3)
    x, dy = rng.standard_normal((2, *shape))
    (mean, weight, bias), var = rng.standard_normal((3, shape[1])), rng.random(shape[1])
    tensors = [torch.from_numpy(a.copy()) for a in (mean, var, weight, bias)]
    for t in tensors[2:]:
        t.requires_grad_()
    tx = torch.from_numpy(x).requires_grad_()
    ty = torch.nn.functional.batch_norm(tx, *tensors, True, 0.3, 1e-4)
    ty.backward(torch.from_numpy(dy))
    y = cbn.reference.batch_norm(x, mean, var, weight, bias, True, 0.3, 1e-4)
    _, batch_mean, inv_std = cbn.reference.batch_norm_forward(x, weight, bias, 1e-4)
    gradients = cbn.reference.batch_norm_backward(dy, x, batch_mean, inv_std, weight)
    wanted = [tensors[0], tensors[1], ty, tx.grad, tensors[2].grad, tensors[3].grad]
    for ours, theirs in zip([mean, var, y, *gradients], wanted, strict=True):
        close(ours.astype(np.float64), theirs, np.float64)
    close(
        cbn.reference.batch_norm(x, mean, var, weight, bias, eps=1e-4).astype(np.float64),
        torch.nn.functional.batch_norm(torch.from_numpy(x), *tensors, False, 0.3, 1e-4),
        np.float64,
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_state_loads_both_ways(options):
    ours = cbn.BatchNorm2d(4, **options)
    theirs = torch.nn.BatchNorm2d(4, **options)
    theirs(torch.randn(5, 4, 3, 3))
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[key], value.numpy())
        assert ours.state_dict()[key].dtype == value.numpy().dtype
    ours(np.random.default_rng(0).random((5, 4, 3, 3), dtype=np.float32))
    state = ours.state_dict()
    assert theirs.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    for key, value in theirs.state_dict().items():
        np.testing.assert_array_equal(state[key], value.numpy())


def test_same_texts():
    shape = (1, 3)
    assert repr(cbn.BatchNorm1d(3)) == repr(torch.nn.BatchNorm1d(3))
    assert repr(cbn.BatchNorm2d(3, affine=False, momentum=None)) == repr(
        torch.nn.BatchNorm2d(3, affine=False, momentum=None)
    )
    for make, convert in ((cbn, np.zeros), (torch.nn, torch.zeros)):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
            make.BatchNorm1d(3)(convert(shape))
        with pytest.raises(ValueError, match=r"expected 4D input \(got 2D input\)"):
            make.BatchNorm2d(3)(convert(shape))


def test_more_exact_than_torch_where_torch_is_not():
    """channels_last at an offset of 1e5 deviations: torch sums in float32 there."""
    x = (np.random.default_rng(0).standard_normal((16, 3, 64, 64)) + 1e5).astype(np.float32)
    exact = cbn.reference.batch_norm_forward(x)[0]
    theirs = torch.nn.functional.batch_norm(
        torch.from_numpy(x).to(memory_format=torch.channels_last), None, None, training=True
    ).numpy()
    ours = cbn.batch_norm(np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1), training=True)
    assert np.abs(ours - exact).max() < 2e-6
    assert np.abs(theirs - exact).max() > 1e-3


def test_layers_copy_next_to_torch_and_fork():
    """Two OpenMP runtimes in one process."""
    x = np.random.default_rng(0).random((8, 16, 50, 50), dtype=np.float32)
    layer = cbn.BatchNorm2d(16)
    y = copy.deepcopy(layer)(x)
    torch.nn.BatchNorm2d(16)(torch.from_numpy(x))
    np.testing.assert_array_equal(layer(x), y)
