"""torch_sync: torch's SyncBatchNorm on the CPU: training batches of which each process has a part."""

import copy
from types import SimpleNamespace

import numpy as np
import torch
from torch import distributed
from torch.autograd.function import once_differentiable
from torch.autograd.graph import increment_version
from torch.nn.modules.batchnorm import _BatchNorm

from .. import _core
from ..batches import inverse_std
from ..synchronized import Exchange, name_of
from .communicators import ProcessGroupCommunicator, communicator_of
from .torch_modules import BatchNorm1d, BatchNorm2d, BatchNorm3d, OnCbn, swapped
from .torch_operators import arrays_of, laid_out, new_like, num_threads, tensors_of

__all__ = ["SyncBatchNorm", "convert_sync_batchnorm"]


class _Synchronized(torch.autograd.Function):
    """y, by the statistics of all ranks; the gradients of weight and bias are this rank's own."""

    @staticmethod
    def forward(ctx, x, weight, bias, module, needs_dx):
        ctx.exchange, ctx.communicator, ctx.needs_dx = module._exchange, module._exchange.communicator, needs_dx
        y, ctx.agreed, *ctx.statistics, ctx.count = _normalized(module, x, weight, bias, needs_dx)
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        ctx.exchange.communicator = ctx.communicator
        try:
            x, weight = ctx.saved_tensors  # what checkpoints left out is computed again here, by calls of every rank
        except Exception:
            with ctx.exchange.call("backward"):
                raise
        if ctx.needs_dx:
            with ctx.exchange.call("backward"):
                dx, sums = _gradients(ctx, dy, x, weight)
        else:
            dx, (sums, _) = None, _own_sums(ctx, dy, x)[0]
        of_parameters = tensors_of(*sums)
        dweight, dbias = (row if of else None for row, of in zip(of_parameters, ctx.needs_input_grad[1:3], strict=True))
        return dx, dweight, dbias, None, None


@_core.default_rounding
def _normalized(module, x, weight, bias, needs_dx):
    """y, what the ranks have agreed on, and the mean, the inverse deviation and the count of the whole batch.

    Everything is checked before the ranks meet.
    """
    x = laid_out(x)
    y = new_like(x)
    x, weight, bias, out = arrays_of(x, weight, bias, y)
    running, counter = _checked_running(module, x)
    channels, threads = module.num_features, num_threads()
    _core.laid_out(x, 1, channels)
    _core.check_parameters(x, channels, weight, bias)
    part = _core.part_moments(x, 1, threads)
    names = {"running_mean": None, "running_var": None, "num_batches_tracked": counter}
    names |= dict(zip(names, running, strict=False))
    arrays = {name: array for name, array in names.items() if array is not None}
    dtypes = [name_of(array.dtype) for array in (weight, *running) if array is not None]
    agreed = (name_of(x.dtype), f"{module!r}, parameters of {dtypes}, x.requires_grad={needs_dx}")
    counted, count, mean, m2 = module._exchange.moments(part, *agreed, arrays)
    _core.check_enough(counted, count, x, False, False, ", on all ranks together")
    with np.errstate(all="ignore"):
        var = m2 / (count or 1)
    _core.inference(x, mean, var, weight, bias, module.eps, 1, out, threads)
    if running and count:
        _core.commit_batch(*running, mean, m2, count, "unbiased", module.momentum, counter, False, None)
        buffers = (module.running_mean, module.running_var, module.num_batches_tracked)
        increment_version([buffer for buffer in buffers if buffer is not None])
    return y, agreed, mean, inverse_std(var, module.eps), count


def _checked_running(module, x):
    """The running statistics that will move, in a tuple, and the counter, which may be None; all fit to be written."""
    arrays = arrays_of(module.running_mean, module.running_var, module.num_batches_tracked)
    *running, counter = arrays
    uncounted = counter is None and module.momentum is None  # as in torch, where nothing moves then
    if not module.track_running_stats or uncounted or all(array is None for array in running):
        return (), None
    checked = {"num_batches_tracked": np.zeros((), np.int64) if counter is None else counter}
    checked |= {"momentum": module.momentum, "renorm_momentum": 0.0, "num_features": module.num_features}
    checked |= dict(zip(("running_mean", "running_var"), running, strict=True))
    *running, _ = _core.checked_running(SimpleNamespace(**checked), x)
    return tuple(running), counter


def _own_sums(ctx, dy, x):
    """What `_core.backward_sums` finds on this rank, and what from."""
    if torch._C._functorch.is_legacy_batchedtensor(dy) or type(dy) is not torch.Tensor or not dy.is_cpu:
        raise RuntimeError("dy must be a plain tensor on the CPU, not a batch of gradients; got another")
    dy, x = arrays_of(dy, laid_out(x))
    mean, inv_std = ctx.statistics
    given = (_core.same_as(dy, "dy", x, 1), x, mean, inv_std, 1, None, 0.0, None, None, None)
    return _core.backward_sums(num_threads(), *given), given


def _gradients(ctx, dy, x, weight):
    """dx, and dweight and dbias of this rank."""
    dx = new_like(laid_out(x))
    (own, most), given = _own_sums(ctx, dy, x)
    out, weight = arrays_of(dx, weight)
    batch = dict(zip(("mean of the batch", "inv_std of the batch"), ctx.statistics, strict=True))
    total = ctx.exchange.sums(own, *ctx.agreed, batch)
    _core.backward_input((out,), weight, total, ctx.count, most, num_threads(), *given)
    return dx, own


class SyncBatchNorm(OnCbn, _BatchNorm):
    """`torch.nn.SyncBatchNorm` on the CPU, where torch has none: batch norm over the batches of all processes.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, process_group, device, dtype, bias
        As torch's, and the same on every rank. The process group is one for the CPU, as gloo's.
    comm : Communicator or mpi4py.MPI.Intracomm, optional
        The ranks, where they are not those of torch.distributed: see `cbn.interop.communicators`.

    Raises
    ------
    TypeError, ValueError
        For a comm that is no communicator, or one beside a process_group.

    Notes
    -----
    Every rank calls the module in training, and backward after it, in the same order, with its own part of the batch,
    (N, C) or (N, C, ...): parts may differ in size, and be empty. y, dx and the running statistics are those of the
    whole batch, the latter the same bits on every rank. The gradients of weight and bias are those of this rank's part,
    as in torch: DistributedDataParallel averages them, as all others. In evaluation, and where torch.distributed has
    not been initialized or the group has one rank, it is `BatchNorm2d` for any rank of tensor.

    It is no instance of torch's SyncBatchNorm, which DistributedDataParallel refuses on the CPU; state dicts are the
    same. process_group and comm stay as they are in copies, and are not for pickles, unless None.

    If a rank raises in such a call, the others raise `cbn.interop.mpi.RankError` with its words, and no module has been
    changed. Ranks whose operations, dtypes of x, options or running statistics differ get a ValueError that names
    them. A rank that dies, or is elsewhere, ends in an error of the process group, at once or after its timeout.

    In training with other ranks only plain tensors on the CPU work, and derivatives once; a second one raises
    RuntimeError. torch.compile breaks its graph there.

    Examples
    --------
    Alone it is a batch norm as any other; two threads as the ranks:

    >>> import torch, cbn.interop.torch
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from cbn.interop.communicators import ThreadCommunicator
    >>> def train(comm):
    ...     norm = cbn.interop.torch.SyncBatchNorm(1, comm=comm)
    ...     y = norm(torch.tensor([[0.0], [4.0]]) + 2 * comm.rank)
    ...     return norm.running_mean.item(), round(norm.running_var.item(), 6)
    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(pool.map(train, ThreadCommunicator.group(2)))
    [(0.30000001192092896, 1.566667), (0.30000001192092896, 1.566667)]
    """

    def __init__(
        self,
        num_features,
        eps=1e-5,
        momentum=0.1,
        affine=True,
        track_running_stats=True,
        process_group=None,
        device=None,
        dtype=None,
        *,
        bias=True,
        comm=None,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self._join(process_group, _checked_comm(process_group, comm))

    def _join(self, process_group, comm):
        self.process_group, self.comm, self._exchange = process_group, comm, Exchange(None)

    def __getstate__(self):
        return {**self.__dict__, "_exchange": Exchange(None)}

    def __deepcopy__(self, memo):
        memo.update({id(shared): shared for shared in (self.process_group, self.comm)})  # the ranks stay the same
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    def _check_input_dim(self, input):
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
        if input.size(1) == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")

    def forward(self, input):
        """See `torch.nn.SyncBatchNorm`; in training a call of every rank."""
        if not self.training or isinstance(input, torch.fx.Proxy) or not self._has_ranks():
            return super().forward(input)
        return self._synchronized(input)

    def _has_ranks(self):
        if self.comm is not None:
            return True
        if not (distributed.is_available() and distributed.is_initialized()):
            return False
        return distributed.get_world_size(self.process_group) > 1  # -1 for ranks that the group has not

    @torch.compiler.disable
    def _synchronized(self, input):
        exchange = self._exchange
        exchange.communicator = ProcessGroupCommunicator(self.process_group) if self.comm is None else self.comm
        with exchange.call("forward"):
            if not self.is_cbns(input):
                raise TypeError(
                    "tensors must be plain ones on the CPU, of float32, float64, float16 or bfloat16, in synchronized "
                    f"training; got {input.dtype} on {input.device}, or a transform of torch"
                )
            self._check_input_dim(input)
            needs_dx = torch.is_grad_enabled() and input.requires_grad
            return _Synchronized.apply(input, self.weight, self.bias, self, needs_dx)


SyncBatchNorm.__module__ = "cbn.interop.torch"  # by which pickles name it

_THEIRS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm)
_TO_SYNC = dict.fromkeys((*_THEIRS, BatchNorm1d, BatchNorm2d, BatchNorm3d), SyncBatchNorm)


def _checked_comm(process_group, comm):
    if comm is None:
        return None
    if process_group is not None:
        raise ValueError(f"comm must be None beside a process_group; got {type(comm).__name__}")
    return communicator_of(comm)


def convert_sync_batchnorm(model, process_group=None, *, comm=None):
    """Have all batch norms of a model on the CPU use the batches of all processes, in place.

    Parameters
    ----------
    model : torch.nn.Module
        A model, or a batch norm itself. Modules that are exactly ``torch.nn.BatchNorm1d``, ``2d``, ``3d`` or
        ``SyncBatchNorm``, or those of cbn, become `SyncBatchNorm`; subclasses stay as they are.
    process_group, comm
        As in `SyncBatchNorm`, also for those that the model has already.

    Returns
    -------
    torch.nn.Module
        The same model. Each module stays the same object, of another class, as with `accelerate`. There is no way back
        but the state dict, which a model with torch's own norms loads: `restore` would not know which they were.

    Raises
    ------
    TypeError, ValueError
        As `accelerate` and `SyncBatchNorm`.

    Examples
    --------
    >>> import torch, cbn.interop.torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    >>> cbn.interop.torch.convert_sync_batchnorm(model)[1]
    SyncBatchNorm(8, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """
    comm = _checked_comm(process_group, comm)
    for module in swapped(model, _TO_SYNC).modules():
        if type(module) is SyncBatchNorm:
            module._join(process_group, comm)
    return model
