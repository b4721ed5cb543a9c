"""torch_operators: batch norm as operators of torch: opaque to torch.compile, and differentiable twice.

Each is a function of tensors, with a fake of it that tells torch.compile the shapes, and with its gradient. The axis of
channels is 1.
"""

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .. import _core, runtime
from ..arrays import of_tensor, tensor_of
from .torch_memory import LEAST, Memory

__all__ = ["MEMORY", "forward", "inference", "update_running"]

MEMORY = Memory()


def _is_watched():
    """Whether somebody records operators instead of running them, or looks at each."""
    return torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0


class _Differentiable:
    """A function of tensors as an operator, where someone watches, else as it is, which costs far less besides.

    `keep` and `gradient` are the setup_context and the backward of torch's autograd functions.
    """

    def __init__(self, function, fake, keep, gradient):
        name = function.__name__.strip("_")
        self.operator = torch.library.custom_op(f"cbn::batch_norm_{name}", function, mutates_args=())
        self.operator.register_fake(fake)
        self.operator.register_autograd(gradient, setup_context=keep)
        self.function = function
        methods = {"forward": function, "setup_context": keep, "backward": gradient}
        methods = {name: staticmethod(method) for name, method in methods.items()}
        self.apply = type(f"BatchNorm{name.title()}", (torch.autograd.Function,), methods).apply

    def __call__(self, *arguments):
        if _is_watched():
            return self.operator(*arguments)
        if torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in arguments):
            return self.apply(*arguments)
        return self.function(*arguments)


def _arrays(*tensors):
    return [None if tensor is None else of_tensor(tensor) for tensor in tensors]


def _tensors(arrays):
    return tuple(map(tensor_of, arrays))


def _memory_like(x):
    """Memory for y or dx, in x's layout if that is one of cbn's; None: new memory will do."""
    if x.nbytes < LEAST:
        return None
    moved = np.moveaxis(x, 1, -1)
    if x.flags.c_contiguous or not moved.flags.c_contiguous:
        return MEMORY.array(x.shape, x.dtype)
    return np.moveaxis(MEMORY.array(moved.shape, x.dtype), -1, 1)


def _num_threads():
    return min(torch.get_num_threads(), runtime.get_num_threads())


def _fake_like(x):
    moved = x.movedim(1, -1)
    if x.is_contiguous() or not moved.is_contiguous():
        return x.new_empty(x.shape)
    return x.new_empty(moved.shape).movedim(-1, 1)


def _fake_statistic(x):
    return x.new_empty((x.shape[1],), dtype=torch.float64)


def _fake_gradient(x, weight):
    """dweight or dbias."""
    dtype = weight.dtype if weight is not None else torch.promote_types(x.dtype, torch.float32)
    return x.new_empty((x.shape[1],), dtype=dtype)


# --- y ---


def _forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, num_features: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, mean, m2 and inv_std of a batch, see `cbn.batch_norm_forward`."""
    x, weight, bias = _arrays(x, weight, bias)
    y, mean, m2, inv_std, _, _ = _core.forward(
        x, weight, bias, eps, 1, _memory_like(x), _num_threads(), channels=num_features
    )
    return _tensors((y, mean, m2, inv_std))


def _fake_forward(x, weight, bias, eps, num_features):
    return _fake_like(x), _fake_statistic(x), _fake_statistic(x), _fake_statistic(x)


def _keep_batch(ctx, inputs, output):
    x, weight, *_ = inputs
    _, mean, m2, inv_std = output
    ctx.mark_non_differentiable(mean, m2, inv_std)  # dx has what comes through them
    ctx.save_for_backward(x, mean, inv_std, weight)


def _of_batch(ctx, dy, *_):
    dx, dweight, dbias = backward(dy, *ctx.saved_tensors, True)
    _, of_weight, of_bias, *_ = ctx.needs_input_grad
    return dx, dweight if of_weight else None, dbias if of_bias else None, None, None


forward = _Differentiable(_forward, _fake_forward, _keep_batch, _of_batch)


def _inference(
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
    y = _core.inference(x, *parameters, eps, 1, _memory_like(x), _num_threads(), channels=num_features)
    return tensor_of(y)


def _fake_inference(x, running_mean, running_var, weight, bias, eps, num_features):
    return _fake_like(x)


def _keep_statistics(ctx, inputs, output):
    x, running_mean, running_var, weight, _, ctx.eps, _ = inputs
    # copies, since the running statistics may have moved on before the backward pass
    ctx.save_for_backward(x, running_mean.clone(), running_var.clone(), weight)


def _of_fixed(ctx, dy):
    x, mean, var, weight = ctx.saved_tensors
    inv_std = torch.rsqrt(var.double() + ctx.eps)
    inv_std = torch.where(inv_std.isinf(), 0.0, inv_std)
    dx, dweight, dbias = backward(dy, x, mean, inv_std, weight, False)
    *_, of_weight, of_bias, _, _ = ctx.needs_input_grad
    return dx, None, None, dweight if of_weight else None, dbias if of_bias else None, None, None


inference = _Differentiable(_inference, _fake_inference, _keep_statistics, _of_fixed)


# --- gradients ---


def _backward(
    dy: Tensor, x: Tensor, mean: Tensor, inv_std: Tensor, weight: Tensor | None, training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dweight and dbias, see `cbn.batch_norm_backward`."""
    dy, x, mean, inv_std, weight = _arrays(dy, x, mean, inv_std, weight)
    return _tensors(_core.backward(dy, x, mean, inv_std, weight, 1, training, _memory_like(x), _num_threads()))


def _fake_backward(dy, x, mean, inv_std, weight, training):
    return _fake_like(x), _fake_gradient(x, weight), _fake_gradient(x, weight)


def _keep_gradients(ctx, inputs, output):
    *tensors, ctx.training = inputs
    ctx.save_for_backward(*tensors)


def _of_gradients(ctx, ddx, ddweight, ddbias):
    ddy, dx, dweight = double_backward(ddx, ddweight, ddbias, *ctx.saved_tensors, ctx.training)
    return ddy, dx, None, None, dweight if ctx.needs_input_grad[4] else None, None


backward = _Differentiable(_backward, _fake_backward, _keep_gradients, _of_gradients)


def _double_backward(
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
    """ddy, dx and dweight, see `cbn.batch_norm_double_backward`."""
    arrays = _arrays(ddx, ddweight, ddbias, dy, x, mean, inv_std, weight)
    return _tensors(_core.double_backward(*arrays, 1, training, _num_threads()))


def _fake_double_backward(ddx, ddweight, ddbias, dy, x, mean, inv_std, weight, training):
    return _fake_like(x), _fake_like(x), _fake_gradient(x, weight)


def _keep_nothing(ctx, inputs, output):
    pass


def _no_third(ctx, *_):
    raise RuntimeError("batch_norm must be differentiated at most twice; got a third derivative")


double_backward = _Differentiable(_double_backward, _fake_double_backward, _keep_nothing, _no_third)


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
    running_mean, running_var, counter, mean, m2 = _arrays(running_mean, running_var, num_batches_tracked, mean, m2)
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
    if _is_watched():
        _update_running_operator(*arguments)
    else:
        _update_running(*arguments)
        increment_version([tensor for tensor in arguments[:3] if tensor is not None])
