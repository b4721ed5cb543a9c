"""torch_modules: torch's batch norms on cbn's kernels, as modules of their own and in the place of a model's."""

import torch
from torch.autograd import forward_ad

from ..arrays import FLOATS
from .torch_batch import forward, update_running
from .torch_fixed import inference
from .torch_operators import MEMORY

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "accelerate", "empty_cache", "restore"]

_DTYPES = tuple(getattr(torch, name) for name in FLOATS)


class OnCbn:
    """Of a batch norm of torch: forward by cbn's operators for what they take, by torch's own for everything else."""

    def forward(self, input):
        if isinstance(input, torch.fx.Proxy):  # a leaf of the graph, as torch's own modules are
            return input.tracer.create_proxy("call_module", input.tracer.path_of_module(self), (input,), {})
        parameters, running = (self.weight, self.bias), (self.running_mean, self.running_var)
        if not self.is_cbns(input):
            return super().forward(input)
        self._check_input_dim(input)
        if not self.training and (running[0] is not None or running[1] is not None):
            return inference(input, *running, *parameters, self.eps)
        y, mean, m2, _ = forward(input, *parameters, self.eps)
        if self.training and self.track_running_stats:
            count = input.numel() // max(input.shape[1], 1)
            update_running(*running, self.num_batches_tracked, mean, m2, count, self.momentum)
        return y

    def is_cbns(self, input):
        """Whether all tensors of a call are of a kind that cbn takes."""
        own = (self.weight, self.bias, self.running_mean, self.running_var)
        tensors = [tensor for tensor in (input, *own) if tensor is not None]
        return input.dtype in _DTYPES and all(map(_is_on_cpu, tensors)) and _are_plain(tensors)


def _is_on_cpu(tensor):
    return tensor.is_cpu and tensor.layout is torch.strided


def _are_plain(tensors):
    """Whether they are tensors as such: of no subclass, and not looked at by an export or a transform of torch.func."""
    if torch.jit.is_tracing() or any(type(tensor) not in (torch.Tensor, torch.nn.Parameter) for tensor in tensors):
        return False
    if torch.compiler.is_compiling():
        return not torch.compiler.is_exporting()
    return forward_ad._current_level < 0 and not any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))


class BatchNorm1d(OnCbn, torch.nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` on cbn's kernels, for (N, C) and (N, C, L); for the rest see `BatchNorm2d`."""


class BatchNorm2d(OnCbn, torch.nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` on cbn's kernels: its arguments, attributes, state, hooks and gradients, twice.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, bias, device, dtype
        As torch's. momentum must lie in [0, 1] (or be None), eps be 0 or more.

    Raises
    ------
    ValueError
        For another rank, another number of channels, and in training for one value per channel (with torch's text).
    TypeError
        For dtypes that do not go together: weight and bias must have one dtype, x's, float32 or float64.

    Notes
    -----
    Tensors (N, C, H, W) on the CPU, contiguous or channels_last, of float32, float64, float16 or bfloat16, take part
    without a copy; other layouts are copied once. x is read twice, y written once; accuracy and bits are those of
    `cbn.batch_norm`. The parameters may be float32 or float64 where x has fewer bits. What cbn does not take (other
    devices, subclasses of Tensor, forward-mode derivatives and transforms of torch.func) is computed by torch's own
    module, and so is what torch.export, torch.jit.trace and ONNX export see. torch.compile keeps the operators
    whole. In training a third derivative raises RuntimeError. The threads are cbn's, but not more than
    ``torch.get_num_threads()``.

    A batch that raises, and an empty one, changes neither the running statistics nor num_batches_tracked.

    Results of 2 MB or more use memory that is kept for the next call, see `empty_cache`.
    """


class BatchNorm3d(OnCbn, torch.nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` on cbn's kernels, for (N, C, D, H, W); for the rest see `BatchNorm2d`."""


_OWN = (BatchNorm1d, BatchNorm2d, BatchNorm3d)
for _module in _OWN:
    _module.__module__ = "cbn.interop.torch"  # by which pickles name them
_TO_OWN = {getattr(torch.nn, own.__name__): own for own in _OWN}
_TO_TORCH = {own: theirs for theirs, own in _TO_OWN.items()}


def accelerate(model):
    """Have cbn compute all batch norms of a model on the CPU, in place.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or a batch norm itself. Modules that are exactly ``torch.nn.BatchNorm1d``, ``2d`` or ``3d`` become
        those of cbn; subclasses, such as SyncBatchNorm, stay as they are.

    Returns
    -------
    torch.nn.Module
        The same model. Each module stays the same object, of another class: its parameters, buffers, hooks, flags and
        whoever refers to them (optimizers, too) need not know.

    Raises
    ------
    TypeError
        If it is no module, or one of TorchScript, whose modules are compiled already.

    Examples
    --------
    >>> import torch, cbn.interop.torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    >>> model = cbn.interop.torch.accelerate(model)
    >>> model[1], type(model[1]).__module__
    (BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True), 'cbn.interop.torch')
    """
    return swapped(model, _TO_OWN)


def restore(model):
    """Give a model's batch norms back to torch, in place: what `accelerate` did, undone.

    Parameters
    ----------
    model : torch.nn.Module
        Modules that are exactly cbn's BatchNorm1d, 2d or 3d become torch's.

    Returns
    -------
    torch.nn.Module
        The same model; running statistics and parameters stay.

    Raises
    ------
    TypeError
        As `accelerate`.

    Examples
    --------
    >>> import torch, cbn.interop.torch
    >>> norm = cbn.interop.torch.restore(cbn.interop.torch.BatchNorm2d(8))
    >>> type(norm).__module__
    'torch.nn.modules.batchnorm'
    """
    return swapped(model, _TO_TORCH)


def swapped(model, classes):
    """The model, whose modules have other classes where the dict `classes` has their own."""
    if not isinstance(model, torch.nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"model must be a torch.nn.Module, not compiled by TorchScript; got {type(model).__name__}")
    for module in model.modules():
        if type(module) in classes:
            object.__setattr__(module, "__class__", classes[type(module)])  # whatever the module's own does
    return model


def empty_cache():
    """Give the memory that waits for the next results back to the system.

    The memory of large results is kept when they are gone, since new memory costs more time than a normalization. It
    is never more than twice what was in use at once, and the system may take most of it where memory runs short;
    monitoring shows it as used until then.

    Examples
    --------
    >>> import cbn.interop.torch
    >>> cbn.interop.torch.empty_cache()
    """
    MEMORY.clear()
