"""torch_batch: torch's operators for training: normalization with the batch's own statistics, and the running ones."""

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .. import _core
from .torch_operators import (
    Differentiable,
    arrays_of,
    fake_gradient,
    fake_like,
    is_watched,
    laid_out,
    new_like,
    num_threads,
    tensors_of,
)

__all__ = ["forward", "update_running"]


def _fake_statistic(x):
    return x.new_empty((x.shape[1],), dtype=torch.float64)


def _forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, mean, m2 and inv_std, see `cbn.batch_norm_forward`."""
    x = laid_out(x)
    y = new_like(x)
    x, weight, bias, out = arrays_of(x, weight, bias, y)
    _, mean, m2, inv_std, *_ = _core.forward(x, weight, bias, eps, 1, out, num_threads())
    return y, *tensors_of(mean, m2, inv_std)


def _fake_forward(x, weight, bias, eps):
    return fake_like(x), _fake_statistic(x), _fake_statistic(x), _fake_statistic(x)


def _keep_batch(ctx, inputs, output):
    x, weight, *_ = inputs
    _, mean, m2, inv_std = output
    ctx.mark_non_differentiable(mean, m2, inv_std)  # dx has what comes through them
    ctx.set_materialize_grads(False)  # zeros for them
    ctx.save_for_backward(x, mean, inv_std, weight)


def _gradient_of_forward(ctx, dy, *_):
    if dy is None:
        return None, None, None, None
    dx, dweight, dbias = backward(dy, *ctx.saved_tensors)
    _, of_weight, of_bias, _ = ctx.needs_input_grad
    return dx, dweight if of_weight else None, dbias if of_bias else None, None


forward = Differentiable("batch_norm_forward", _forward, _fake_forward, _keep_batch, _gradient_of_forward)


def _backward(
    dy: Tensor, x: Tensor, mean: Tensor, inv_std: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dweight and dbias, see `cbn.batch_norm_backward`."""
    x = laid_out(x)
    dx = new_like(x)
    dy, x, mean, inv_std, weight, out = arrays_of(dy, x, mean, inv_std, weight, dx)
    _, dweight, dbias = _core.backward(dy, x, mean, inv_std, weight, 1, True, out, num_threads())
    return dx, *tensors_of(dweight, dbias)


def _fake_backward(dy, x, mean, inv_std, weight):
    return fake_like(x), fake_gradient(x, weight), fake_gradient(x, weight)


def _keep_inputs(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gradient_of_backward(ctx, ddx, ddweight, ddbias):
    ddy, dx, dweight = double_backward(ddx, ddweight, ddbias, *ctx.saved_tensors)
    return ddy, dx, None, None, dweight if ctx.needs_input_grad[4] else None


backward = Differentiable("batch_norm_backward", _backward, _fake_backward, _keep_inputs, _gradient_of_backward)


def _double_backward(
    ddx: Tensor,
    ddweight: Tensor,
    ddbias: Tensor,
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    inv_std: Tensor,
    weight: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """ddy, dx and dweight, see `cbn.batch_norm_double_backward`."""
    arrays = arrays_of(ddx, ddweight, ddbias, dy, laid_out(x), mean, inv_std, weight)
    return tensors_of(*_core.double_backward(*arrays, 1, True, num_threads()))


def _fake_double_backward(ddx, ddweight, ddbias, dy, x, mean, inv_std, weight):
    return fake_like(x), fake_like(x), fake_gradient(x, weight)


def _keep_nothing(ctx, inputs, output):
    pass


def _no_third(ctx, *_):
    raise RuntimeError("batch_norm must be differentiated at most twice in training; got a third derivative")


double_backward = Differentiable(
    "batch_norm_double_backward", _double_backward, _fake_double_backward, _keep_nothing, _no_third
)


# --- running statistics ---


def _update_running(
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    mean: Tensor,
    m2: Tensor,
    count: int,
    momentum: float | None,
) -> None:
    """Move the running statistics by a batch with so many values per channel, see `cbn.update_running`."""
    running_mean, running_var, counter, mean, m2 = arrays_of(running_mean, running_var, num_batches_tracked, mean, m2)
    if momentum is not None:
        _core.check_momentum(momentum)
    if counter is not None:
        counter = _core.check_counter(counter)
    elif momentum is None:
        return  # as in torch, where nothing is counted
    if count:
        _core.commit_batch(running_mean, running_var, mean, m2, count, "unbiased", momentum, counter, False, None)


_WRITTEN = ("running_mean", "running_var", "num_batches_tracked")
_update_running_operator = torch.library.custom_op("cbn::update_running", _update_running, mutates_args=_WRITTEN)


def update_running(*arguments):
    """`_update_running` as an operator, where someone watches, else as it is."""
    if is_watched():
        _update_running_operator(*arguments)
    else:
        _update_running(*arguments)
        increment_version([tensor for tensor in arguments[:3] if tensor is not None])
