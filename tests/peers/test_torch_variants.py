"""test_torch_variants: 16-bit types against torch's own kernels, fused activations against its composition of steps."""

import ml_dtypes
import numpy as np
import pytest

import cbn

torch = pytest.importorskip("torch")

SHAPES = [(64, 3), (5, 3, 7), (3, 5, 6, 7), (6, 33, 7, 7), (2, 16, 20, 21)]
HALVES = {"f16": (np.float16, torch.float16), "bf16": (ml_dtypes.bfloat16, torch.bfloat16)}
F32 = np.float32


def tensor_of(x):
    """The same bits: torch does not know ml_dtypes' type."""
    x = np.ascontiguousarray(x)
    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def unit(values, dtype):
    """The distance of a dtype's numbers at values."""
    info = ml_dtypes.finfo(dtype)
    exponent = np.frexp(np.asarray(values, np.float64))[1] - 1
    return np.ldexp(1.0, np.maximum(exponent, info.minexp) - info.nmant)


def within_one_unit(ours, theirs, noise):
    """Equal, or next to each other. Where the two sides of a tie differ by float32's noise, they may be."""
    theirs = theirs.detach().to(torch.float64).numpy()
    difference = np.abs(ours.astype(np.float64) - theirs)
    assert (difference <= unit(np.maximum(np.abs(theirs), np.abs(ours.astype(np.float64))), ours.dtype) + noise).all()
    assert np.mean(difference == 0) > 0.95


def arrays(shape, dtype):
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((2, *shape)) * 2 + 0.5).astype(dtype)
    weight, bias, mean = rng.standard_normal((3, shape[1])).astype(F32)
    return x, dy, weight, bias, mean, rng.random(shape[1]).astype(F32) + 0.1


@pytest.mark.parametrize("kind", HALVES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_halves_agree(shape, kind):
    """x of 16 bits with float32 parameters, which torch takes on CPUs, too."""
    dtype, _ = HALVES[kind]
    x, dy, weight, bias, mean, var = arrays(shape, dtype)
    tensors = [tensor_of(a) for a in (mean, var, weight, bias)]
    for training in (True, False):
        y = cbn.batch_norm(x, mean, var, weight, bias, training, 0.3)
        ty = torch.nn.functional.batch_norm(tensor_of(x), *tensors, training, 0.3)
        within_one_unit(y, ty, 1e-5)
        np.testing.assert_allclose(mean, tensors[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(var, tensors[1].numpy(), rtol=1e-5)
    tx = tensor_of(x).requires_grad_()
    weights = [t.requires_grad_() for t in tensors[2:]]
    torch.nn.functional.batch_norm(tx, None, None, *weights, True).backward(tensor_of(dy))
    _, batch_mean, inv_std = cbn.batch_norm_forward(x, weight, bias)
    dx, dweight, dbias = cbn.batch_norm_backward(dy, x, batch_mean, inv_std, weight)
    within_one_unit(dx, tx.grad, 1e-5 * np.abs(dx.astype(float)).max())
    for ours, theirs in ((dweight, weights[0].grad), (dbias, weights[1].grad)):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4 * np.sqrt(x.size / shape[1]))


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("training", [True, False], ids=["batch", "fixed"])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fused_steps_agree(shape, activation, training, dtype):
    """activation(batch_norm(x) + residual) by torch's autograd in float64, from the same saved signs."""
    x, dy, weight, bias, mean, var = (a.astype(dtype) for a in arrays(shape, dtype))
    residual = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    leaves = [torch.from_numpy(a.astype(np.float64)).requires_grad_() for a in (x, weight, bias, residual)]
    fixed = [torch.from_numpy(a.astype(np.float64)) for a in (mean, var)]
    tx, tweight, tbias, tresidual = leaves
    before = torch.nn.functional.batch_norm(tx, *fixed, tweight, tbias, training, 0.3) + tresidual
    steps = {
        None: lambda v: v,
        "relu": torch.nn.functional.relu,
        "leaky_relu": lambda v: torch.nn.functional.leaky_relu(v, 0.2),
    }
    ty = steps[activation](before)
    ty.backward(torch.from_numpy(dy.astype(np.float64)))
    options = {"activation": activation, "negative_slope": 0.2}
    statistics = mean.astype(np.float64), 1 / np.sqrt(var.astype(np.float64) + 1e-5)
    y = cbn.batch_norm(x, mean, var, weight, bias, training, 0.3, residual=residual, **options)
    if training:
        y, *statistics = cbn.batch_norm_forward(x, weight, bias, residual=residual, **options)
    assert (np.abs(before.detach().numpy()) > 1e-5).all()  # so that both sides see the same signs
    tolerance = 1e-11 if dtype == np.float64 else 1e-5
    gradients = cbn.batch_norm_backward(dy, x, *statistics, weight, training=training, y=y, residual=True, **options)
    for ours, theirs in zip((y, *gradients), (ty, *(leaf.grad for leaf in leaves)), strict=True):
        theirs = theirs.detach().numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1, np.abs(theirs).max()))
