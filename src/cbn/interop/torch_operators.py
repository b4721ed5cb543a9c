"""torch_operators: batch norm as operators of torch: opaque to torch.compile, and differentiable twice.

Each has its computation, a fake of it that tells torch.compile the shapes, and its gradient.
"""

import numpy as np
import torch
from torch import Tensor
from torch.library import custom_op

from .. import _core, runtime
from ..arrays import of_tensor, tensor_of
from .torch_memory import Memory

__all__ = ["MEMORY", "forward", "inference", "update_running"]

MEMORY = Memory()
AXIS = 1


def _arrays(*tensors):
    return [None if tensor is None else of_tensor(tensor) for tensor in tensors]


def _tensors(arrays):
    return tuple(map(tensor_of, arrays))


def _memory_like(x):
    """Memory for y or dx, in x's layout if that is one of cbn's; None: new memory will do."""
    moved = np.moveaxis(x, AXIS, -1)
    if x.flags.c_contiguous or not moved.flags.c_contiguous:
        return MEMORY.array(x.shape, x.dtype)
    array = MEMORY.array(moved.shape, x.dtype)
    return None if array is None else np.moveaxis(array, -1, AXIS)


def _num_threads():
    return min(torch.get_num_threads(), runtime.get_num_threads())


def _fake_like(x):
    moved = x.movedim(AXIS, -1)
    if x.is_contiguous() or not moved.is_contiguous():
        return x.new_empty(x.shape)
    return x.new_empty(moved.shape).movedim(-1, AXIS)


def _fake_statistic(x):
    return x.new_empty((x.shape[AXIS],), dtype=torch.float64)


def _fake_gradient(x, weight):
    """dweight or dbias."""
    dtype = weight.dtype if weight is not None else torch.promote_types(x.dtype, torch.float32)
    return x.new_empty((x.shape[AXIS],), dtype=dtype)


# --- y ---


@custom_op("cbn::batch_norm_forward", mutates_args=(), device_types="cpu")
def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, num_features: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, mean, m2 and inv_std of a batch, see `cbn.batch_norm_forward`."""
    x, weight, bias = _arrays(x, weight, bias)
    arguments = (x, weight, bias, eps, AXIS, _memory_like(x), _num_threads())
    y, mean, m2, inv_std, _, _ = _core.forward(*arguments, channels=num_features)
    return _tensors((y, mean, m2, inv_std))


@forward.register_fake
def _(x, weight, bias, eps, num_features):
    return _fake_like(x), _fake_statistic(x), _fake_statistic(x), _fake_statistic(x)


def _keep_batch(ctx, inputs, output):
    x, weight, *_ = inputs
    _, mean, _, inv_std = output
    ctx.save_for_backward(x, mean, inv_std, weight)


def _of_batch(ctx, dy, *_):
    """The gradients; those with respect to x have those with respect to the batch's statistics in them."""
    dx, dweight, dbias = backward(dy, *ctx.saved_tensors, True)
    _, of_weight, of_bias, *_ = ctx.needs_input_grad
    return dx, dweight if of_weight else None, dbias if of_bias else None, None, None


forward.register_autograd(_of_batch, setup_context=_keep_batch)


@custom_op("cbn::batch_norm_inference", mutates_args=(), device_types="cpu")
def inference(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    num_features: int,
) -> Tensor:
    """y with fixed statistics, see `cbn.batch_norm`."""
    x, *parameters = _arrays(x, running_mean, running_var, weight, bias)
    arguments = (x, *parameters, eps, AXIS, _memory_like(x), _num_threads())
    return tensor_of(_core.inference(*arguments, channels=num_features))


@inference.register_fake
def _(x, running_mean, running_var, weight, bias, eps, num_features):
    return _fake_like(x)


def _keep_statistics(ctx, inputs, output):
    x, running_mean, running_var, weight, _, eps, _ = inputs
    # copies, since the running statistics may have moved on before the backward pass
    mean, var = (running.to(torch.float64, copy=True) for running in (running_mean, running_var))
    inv_std = torch.rsqrt(var + eps)
    ctx.save_for_backward(x, mean, torch.where(inv_std.isinf(), 0.0, inv_std), weight)


def _of_fixed(ctx, dy):
    dx, dweight, dbias = backward(dy, *ctx.saved_tensors, False)
    *_, of_weight, of_bias, _, _ = ctx.needs_input_grad
    return dx, None, None, dweight if of_weight else None, dbias if of_bias else None, None, None


inference.register_autograd(_of_fixed, setup_context=_keep_statistics)


# --- gradients ---


@custom_op("cbn::batch_norm_backward", mutates_args=(), device_types="cpu")
def backward(
    dy: Tensor, x: Tensor, mean: Tensor, inv_std: Tensor, weight: Tensor | None, training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dweight and dbias, see `cbn.batch_norm_backward`."""
    dy, x, mean, inv_std, weight = _arrays(dy, x, mean, inv_std, weight)
    arguments = (dy, x, mean, inv_std, weight, AXIS, training, _memory_like(x), _num_threads())
    return _tensors(_core.backward(*arguments))


@backward.register_fake
def _(dy, x, mean, inv_std, weight, training):
    return _fake_like(x), _fake_gradient(x, weight), _fake_gradient(x, weight)


def _keep_gradients(ctx, inputs, output):
    *tensors, ctx.training = inputs
    ctx.save_for_backward(*tensors)


def _of_gradients(ctx, ddx, ddweight, ddbias):
    ddy, dx, dweight = double_backward(ddx, ddweight, ddbias, *ctx.saved_tensors, ctx.training)
    return ddy, dx, None, None, dweight if ctx.needs_input_grad[4] else None, None


backward.register_autograd(_of_gradients, setup_context=_keep_gradients)


@custom_op("cbn::batch_norm_double_backward", mutates_args=(), device_types="cpu")
def double_backward(
    ddx: Tensor,
    ddweight: Tensor,
    ddbias: Tensor,
    dy: Tensor,
    x: Tensor,
    mean: Tensor,
    inv_std: Tensor,
    weight: Tensor | None,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """ddy, dx and dweight, see `cbn.batch_norm_double_backward`. There is no third derivative."""
    arrays = _arrays(ddx, ddweight, ddbias, dy, x, mean, inv_std, weight)
    return _tensors(_core.double_backward(*arrays, AXIS, training, _num_threads()))


@double_backward.register_fake
def _(ddx, ddweight, ddbias, dy, x, mean, inv_std, weight, training):
    return _fake_like(x), _fake_like(x), _fake_gradient(x, weight)


# --- running statistics ---


@custom_op(
    "cbn::update_running",
    mutates_args=("running_mean", "running_var", "num_batches_tracked"),
    device_types="cpu",
)
def update_running(
    running_mean: Tensor,
    running_var: Tensor,
    num_batches_tracked: Tensor | None,
    mean: Tensor,
    m2: Tensor,
    count: int,
    momentum: float | None,
) -> None:
    """Move the running statistics by a batch with so many values per channel, see `cbn.update_running`."""
    running_mean, running_var, counter, mean, m2 = _arrays(running_mean, running_var, num_batches_tracked, mean, m2)
    if momentum is not None:
        _core.check_momentum(momentum)
    if counter is not None:
        counter = _core.check_counter(counter)
    elif momentum is None:
        return  # as in torch, where nothing is counted
    if count:
        _core.commit_batch(running_mean, running_var, mean, m2, count, "unbiased", momentum, counter, False, None)
