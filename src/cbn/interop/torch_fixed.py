"""torch_fixed: torch's operators for fixed statistics: evaluation, and training of what stands around frozen norms."""

import numpy as np
import torch
from torch import Tensor

from .. import _core
from ..batches import inverse_std
from .torch_operators import (
    Differentiable,
    arrays_of,
    fake_gradient,
    fake_like,
    laid_out,
    new_like,
    num_threads,
    tensors_of,
)

__all__ = ["inference"]


def _inference(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """y, see `cbn.batch_norm`."""
    x = laid_out(x)
    y = new_like(x)
    x, running_mean, running_var, weight, bias, out = arrays_of(x, running_mean, running_var, weight, bias, y)
    _core.inference(x, running_mean, running_var, weight, bias, eps, 1, out, num_threads())
    return y


def _fake_inference(x, running_mean, running_var, weight, bias, eps):
    return fake_like(x)


def _keep_statistics(ctx, inputs, output):
    x, running_mean, running_var, weight, _, ctx.eps = inputs
    # copies, since the running statistics may have moved on before the backward pass
    ctx.save_for_backward(x, running_mean.clone(), running_var.clone(), weight)


def _gradient_of_inference(ctx, dy):
    *_, of_weight, of_bias, _ = ctx.needs_input_grad
    dx, dweight, dbias = fixed_backward(dy, *ctx.saved_tensors, ctx.eps, of_weight or of_bias)
    return dx, None, None, dweight if of_weight else None, dbias if of_bias else None, None


inference = Differentiable(
    "batch_norm_inference", _inference, _fake_inference, _keep_statistics, _gradient_of_inference
)


def _fixed_backward(
    dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, eps: float, of_parameters: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dweight and dbias; the last two are empty unless they are wanted, which takes more than twice the time."""
    x = laid_out(x)
    dx = new_like(x)
    dy, x, mean, var, weight, out = arrays_of(dy, x, mean, var, weight, dx)
    if of_parameters:
        mean, inv_std = mean.astype(np.float64), inverse_std(var.astype(np.float64), eps)
        _, dweight, dbias = _core.backward(dy, x, mean, inv_std, weight, 1, False, out, num_threads())
    else:
        dweight, dbias = np.empty((2, 0), np.float32)
        dy = _core.same_as(dy, "dy", x, 1)
        _core.inference(dy, np.zeros_like(mean), var, weight, None, eps, 1, out, num_threads())
    return dx, *tensors_of(dweight, dbias)


def _fake_fixed_backward(dy, x, mean, var, weight, eps, of_parameters):
    gradients = (fake_gradient(x, weight) if of_parameters else x.new_empty((0,), dtype=torch.float32) for _ in "wb")
    return fake_like(x), *gradients


def _keep_fixed(ctx, inputs, output):
    *tensors, ctx.eps, ctx.of_parameters = inputs
    ctx.save_for_backward(*tensors)


def _gradient_of_fixed_backward(ctx, ddx, ddweight, ddbias):
    """By torch's own operations, which can be differentiated any number of times."""
    dy, x, mean, var, weight = ctx.saved_tensors
    shape = (-1,) + (1,) * (x.dim() - 2)
    rest = [axis for axis in range(x.dim()) if axis != 1]
    inv_std = torch.rsqrt(var.double() + ctx.eps)
    inv_std = torch.where(inv_std.isinf(), 0.0, inv_std).reshape(shape)
    scale = inv_std if weight is None else inv_std * weight.reshape(shape)
    ddy, dx = ddx * scale, None
    if ctx.of_parameters:
        x_hat = (x - mean.double().reshape(shape)) * inv_std
        ddy = ddy + ddweight.reshape(shape) * x_hat + ddbias.reshape(shape)
        dx = (ddweight.reshape(shape) * inv_std * dy).to(x.dtype)
    dweight = None if weight is None else (ddx * dy * inv_std).sum(rest).to(weight.dtype)
    return ddy.to(dy.dtype), dx, None, None, dweight, None, None


fixed_backward = Differentiable(
    "batch_norm_fixed_backward", _fixed_backward, _fake_fixed_backward, _keep_fixed, _gradient_of_fixed_backward
)
