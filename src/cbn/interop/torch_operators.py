"""torch_operators: how functions on arrays become operators of torch: opaque to torch.compile, and differentiable.

Each is a function of tensors, with a fake of it that tells torch.compile the shapes, and with its gradient. The axis of
channels is 1.
"""

import torch
from torch import Tensor

from .. import runtime
from ..arrays import of_tensor, tensor_of
from .torch_memory import LEAST, Memory

__all__ = [
    "MEMORY",
    "Differentiable",
    "arrays_of",
    "fake_gradient",
    "fake_like",
    "is_watched",
    "laid_out",
    "new_like",
    "num_threads",
    "tensors_of",
]

MEMORY = Memory()


def is_watched():
    """Whether somebody records operators instead of running them, or looks at each."""
    if torch.compiler.is_compiling():
        return True
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._autograd._profiler_enabled()


class Differentiable:
    """A function of tensors as an operator, where someone watches, else as it is, which costs far less besides.

    `keep` and `gradient` are the setup_context and the backward of torch's autograd functions.
    """

    def __init__(self, name, function, fake, keep, gradient):
        self.function = function
        self.operator = torch.library.custom_op(f"cbn::{name}", function, mutates_args=())
        self.operator.register_fake(fake)
        self.operator.register_autograd(gradient, setup_context=keep)

        def forward(ctx, *arguments):  # torch looks at signatures for longer than a small call takes, if it has keep
            results = function(*arguments)
            keep(ctx, arguments, results)
            return results

        methods = {"forward": staticmethod(forward), "backward": staticmethod(gradient)}
        self.apply = type(f"cbn_{name}", (torch.autograd.Function,), methods).apply

    def __call__(self, *arguments):
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        # batches of gradients (is_grads_batched, vectorize=True), of which torch hands operators one after the other
        if is_watched() or any(map(torch._C._functorch.is_legacy_batchedtensor, tensors)):
            return self.operator(*arguments)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return self.apply(*arguments)
        return self.function(*arguments)


# --- memory ---


def arrays_of(*tensors):
    return [None if tensor is None else of_tensor(tensor) for tensor in tensors]


def tensors_of(*arrays):
    return tuple(map(tensor_of, arrays))


def laid_out(x):
    """x in C order, or in C order with the channels moved last if it is at least similar to that."""
    if x.is_contiguous():
        return x
    moved = x.movedim(1, -1)
    if moved.is_contiguous():
        return x
    return moved.contiguous().movedim(-1, 1) if x.stride(1) == 1 else x.contiguous()


def new_like(x):
    """A tensor for y or dx, as x is laid out."""
    if x.nbytes < LEAST:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cpu")
    storage = torch.from_numpy(MEMORY.bytes(x.nbytes)).untyped_storage()
    # no view, which in-place operations would be refused on
    return torch.empty(0, dtype=x.dtype, device="cpu").set_(storage, 0, x.shape, x.stride())


def fake_like(x):
    x = laid_out(x)
    return x.new_empty_strided(x.shape, x.stride())


def fake_gradient(x, weight):
    """dweight or dbias."""
    dtype = weight.dtype if weight is not None else torch.promote_types(x.dtype, torch.float32)
    return x.new_empty((x.shape[1],), dtype=dtype)


def num_threads():
    return min(torch.get_num_threads(), runtime.get_num_threads())
