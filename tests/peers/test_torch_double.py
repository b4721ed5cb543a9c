"""test_torch_double: cbn's gradients, and their gradients, as torch functions, held by torch's gradgradcheck."""

import numpy as np
import pytest

import cbn

torch = pytest.importorskip("torch")

SHAPES = [(5, 3), (4, 2, 7), (3, 2, 3, 4), (2, 1, 3, 7, 3)]


def arrays(*tensors):
    return [tensor.detach().numpy() for tensor in tensors]


def tensors(results):
    return tuple(torch.from_numpy(a) for a in results)


class Normalize(torch.autograd.Function):
    """y of x, weight and bias, with the statistics of x, or with fixed ones."""

    @staticmethod
    def forward(ctx, x, weight, bias, fixed):
        values = arrays(x, weight, bias)
        ctx.save_for_backward(x, weight)
        if fixed is None:
            y, *ctx.statistics = cbn.batch_norm_forward(*values)
        else:
            y, ctx.statistics = cbn.batch_norm(values[0], *fixed, *values[1:]), (fixed[0], 1 / np.sqrt(fixed[1] + 1e-5))
        ctx.training = fixed is None
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx, dy):
        return *Gradients.apply(dy, *ctx.saved_tensors, ctx.statistics, ctx.training), None


class Gradients(torch.autograd.Function):
    """dx, dweight and dbias of dy, x and weight."""

    @staticmethod
    def forward(ctx, dy, x, weight, statistics, training):
        ctx.save_for_backward(dy, x, weight)
        ctx.statistics, ctx.training = statistics, training
        values = arrays(dy, x, weight)
        return tensors(cbn.batch_norm_backward(*values[:2], *statistics, values[2], training=training))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, ddx, ddweight, ddbias):
        dy, x, weight = arrays(*ctx.saved_tensors)
        seconds = arrays(ddx, ddweight, ddbias)
        results = cbn.batch_norm_double_backward(
            *seconds, dy, x, *ctx.statistics, weight, training=ctx.training, num_threads=1
        )
        return *tensors(results), None, None


def inputs(shape):
    generator = torch.Generator().manual_seed(0)
    sizes = (shape, shape[1:2], shape[1:2])
    return [torch.randn(size, dtype=torch.float64, generator=generator, requires_grad=True) for size in sizes]


@pytest.mark.parametrize("training", [True, False], ids=["training", "fixed"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradcheck_and_gradgradcheck(shape, training):
    channels = np.arange(shape[1])
    fixed = None if training else (channels / 3, channels / 2 + 0.5)

    def function(*given):
        return Normalize.apply(*given, fixed)

    assert torch.autograd.gradcheck(function, inputs(shape))
    assert torch.autograd.gradgradcheck(function, inputs(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("shape", [(5, 3), (6, 33, 7, 7), (2, 4, 20, 21)], ids=str)
def test_a_gradient_penalty_is_as_torch_has_it(shape, dtype):
    """The gradients of mean(|d(sum of y**4) / dx|**2); torch's in float64."""
    given = [a.detach().to(dtype) for a in inputs(shape)]
    results = []
    for function, type_ in ((lambda *a: Normalize.apply(*a, None), dtype), (theirs, torch.float64)):
        leaves = [a.to(type_).requires_grad_() for a in given]
        (dx,) = torch.autograd.grad(function(*leaves).pow(4).sum(), leaves[:1], create_graph=True)
        results.append(torch.autograd.grad(dx.square().mean(), leaves))
    for a, b in zip(*results, strict=True):
        limit = (1e-10 if dtype == torch.float64 else 1e-5) * b.abs().max().item()
        assert (a - b).abs().max().item() <= limit


def theirs(x, weight, bias):
    return torch.nn.functional.batch_norm(x, None, None, weight, bias, True)
