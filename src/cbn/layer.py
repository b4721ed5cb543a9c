"""layer: batch normalization with parameters, running statistics and a backward pass."""

import numpy as np

from . import _core, batches, conventions, options, training
from .state import State

__all__ = ["BatchNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]


class BatchNorm(State):
    """Batch normalization over any channel axis, with torch's attributes and state.

    Parameters
    ----------
    num_features : int
        Number of channels C.
    eps : float, >= 0
        Added to the variance, in the units of x squared (with eps outside the root to the deviation, in those of x).
        By default the convention's, 1e-5.
    momentum : float in [0, 1], or None
        Weight of the new value in the running statistics, or of the old one, as the convention says; dimensionless.
        None: the plain average over all batches since the last reset. By default the convention's, 0.1.
    affine : bool
        Whether there are parameters `weight` (and `bias`), which start as 1 and 0.
    track_running_stats : bool
        Whether running statistics are kept. Without them evaluation uses the batch's own, too.
    weight, bias : bool
        Whether an affine layer has each of them; ``bias=False`` is scale-only, ``weight=False`` shift-only.
    axis : int
        The channel axis, -1 for channels-last data.
    activation : None, "relu" or "leaky_relu"
        What follows the normalization and a residual, in the same pass over memory; as timm's BatchNormAct2d.
    negative_slope : float, >= 0
        Of "leaky_relu".
    convention : Convention or str
        What momentum weighs, which variance is averaged, where eps stands, and the defaults of eps, momentum and
        one_value: one of `cbn.conventions`, or its lower-case name. The descriptions here are those of "torch".
    dtype : float32, float64, float16 or bfloat16
        Of the parameters and running statistics. x must have it too, unless it is float32 or float64.
    nonfinite : "propagate", "raise" or "skip"
        What a training batch does after which some channel's mean, variance or running statistic would not be finite:
        it becomes so; ValueError, naming the channel; or the running statistics and the counter stay as they are.
    one_value : "error" or "zero_var"
        What a training batch does that has one value per channel: ValueError, as in torch; or y is the bias, as in
        TensorFlow, Keras and ONNX, and the running variance takes a 0. By default the convention's, "error".
    frozen : bool
        Training, too, normalizes with the running statistics, and leaves them as they are; gradients are those through
        fixed statistics. An attribute: it may be changed at any time.
    virtual_batch_size : int, optional
        Ghost batches (Hoffer et al. 2017): in training the first axis is cut into ceil(N / virtual_batch_size) equal
        parts, the last of which may be smaller, as in TabNet; each is normalized, and moves the running statistics,
        by itself. A last part of one value per channel joins the part before.
    renorm : bool
        Batch renormalization (Ioffe 2017): training computes ``y = (x_hat * r + d) * weight + bias`` with
        ``r = std / renorm_std`` and ``d = (mean - renorm_mean) / renorm_std``, constants for the gradient, and
        ``std = sqrt(var + eps)``. As in Keras 3, deviations are averaged, and running_var is their square less eps.
    renorm_clipping : dict, optional
        Bounds "rmin", "rmax" of r and "dmax" of abs(d); without them r and d are not clipped.
    renorm_momentum : float in [0, 1]
        Weight of the new value in renorm_mean and renorm_std, whatever the convention; 0.01 is Keras' 0.99 of the old
        value.
    zero_debias : bool
        Whether running_mean is the average of the batches so far, without the weight that its start at 0 would have
        (Kingma and Ba 2015, section 3): ``momentum / (1 - (1 - momentum)**t)`` for momentum in the t-th batch.
        TensorFlow's zero_debias_moving_mean; running_var is not changed.

    Attributes
    ----------
    weight, bias : ndarray of dtype, shape (C,), or None
    running_mean, running_var : ndarray of dtype, shape (C,), or None
        ``running = (1 - momentum) * running + momentum * new`` after each training call, with the batch's mean and
        unbiased variance (m2 / (n - 1)); see `convention` and `renorm` for others. They start as 0 and 1.
    num_batches_tracked : ndarray of int64, shape (), or None
        Training batches so far that were not empty, not skipped, and not in a frozen layer; ghost batches count singly.
    weight_grad, bias_grad : ndarray of dtype, shape (C,), or None
        Of the last `backward`; overwritten by the next.
    count : int, float or None
        Values per channel of the training batches, if all had the same number, 0 if there were none, else None: what
        makes a biased running variance unbiased, see `convert`. With sample weights their sum.
    batch_mean, batch_inv_std : ndarray of float64, shape (C,), or None
        Statistics of the last training call.
    renorm_mean, renorm_std : ndarray of dtype, shape (C,), or None
        What r and d are computed from; they start as 0 and 1, as in Keras.
    training : bool

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind or out of range, and for options that exclude each other: renorm with
        virtual_batch_size or zero_debias; renorm, frozen or zero_debias without running statistics; ghost batches
        along axis 0.

    Notes
    -----
    Ioffe & Szegedy 2015. Training normalizes with the biased variance. Accuracy, determinism and passes over memory
    are those of `batch_norm`. A call that raises leaves the layer as it was. Calls from several threads are safe:
    the running statistics are committed under a lock. Layers pickle and copy, without what `backward` needs.

    Examples
    --------
    >>> import numpy as np, cbn
    >>> layer = cbn.BatchNorm(2)
    >>> x = np.array([[1, 10], [3, 30]], dtype=np.float32)
    >>> y = layer(x)
    >>> dx = layer.backward(np.ones_like(y))
    >>> layer.running_mean, layer.running_var
    (array([0.2, 2. ], dtype=float32), array([ 1.1, 20.9], dtype=float32))
    >>> layer.eval()
    BatchNorm(2, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    _ranks = None  # the ranks that x may have; None: any from 2 on

    def __init__(
        self,
        num_features,
        eps=options.DEFAULT,
        momentum=options.DEFAULT,
        affine=True,
        track_running_stats=True,
        *,
        weight=True,
        bias=True,
        axis=1,
        activation=None,
        negative_slope=0.01,
        convention="torch",
        dtype=np.float32,
        nonfinite="propagate",
        one_value=options.DEFAULT,
        frozen=False,
        virtual_batch_size=None,
        renorm=False,
        renorm_clipping=None,
        renorm_momentum=0.01,
        zero_debias=False,
    ):
        self.num_features = _core.check_size(num_features, "num_features")
        self._convention = conventions.named(convention)
        eps, momentum, one_value = (
            getattr(self.convention, name) if value is options.DEFAULT else value
            for name, value in (("eps", eps), ("momentum", momentum), ("one_value", one_value))
        )
        self.eps = _core.check_eps(eps)
        self.momentum = None if momentum is None else _core.check_momentum(momentum)
        self.affine = _core.check_flag(affine, "affine")
        self.track_running_stats = _core.check_flag(track_running_stats, "track_running_stats")
        self.axis = _core.check_integer(axis, "axis")
        _core.check_activation(activation)
        self.activation = activation
        self.negative_slope = _core.check_negative_slope(negative_slope)
        self.dtype = _core.check_dtype(dtype)
        self.nonfinite = conventions.one_of("nonfinite", nonfinite, ("propagate", "raise", "skip"))
        self.one_value = conventions.one_of("one_value", one_value, ("error", "zero_var"))
        self.frozen = _core.check_flag(frozen, "frozen")
        self.virtual_batch_size = options.batch_size(virtual_batch_size)
        self.renorm = _core.check_flag(renorm, "renorm")
        self.renorm_clipping = options.clipping(renorm_clipping)
        self.renorm_momentum = _core.check_momentum(renorm_momentum, "renorm_momentum")
        self.zero_debias = _core.check_flag(zero_debias, "zero_debias")
        options.check_together(self)
        self.training = True
        self.weight = self._new(_core.check_flag(weight, "weight") and self.affine)
        self.bias = self._new(_core.check_flag(bias, "bias") and self.affine)
        self.running_mean, self.running_var = self._new(track_running_stats), self._new(track_running_stats)
        self.num_batches_tracked = np.array(0, np.int64) if track_running_stats else None
        self._history = np.empty(2) if track_running_stats else None  # see `remember` in _running.pxi
        self.renorm_mean, self.renorm_std = self._new(renorm), self._new(renorm)
        self.weight_grad = self.bias_grad = None
        self._forget()
        self.reset_parameters()

    def _new(self, wanted):
        return np.empty(self.num_features, self.dtype) if wanted else None

    def __repr__(self):
        text = f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}"
        text += f", bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        return f"{type(self).__name__}({text}{options.described(self)})"

    # --- the operations ---

    def __call__(self, x, *, residual=None, mask=None, sample_weight=None, out=None):
        """Normalize x: with its own statistics in training mode, else with the running ones.

        Parameters
        ----------
        x : array_like, with num_features channels on `axis`
            For evaluation also uint8.
        residual, mask, sample_weight
            See `batch_norm`.
        out : ndarray, optional
            Where y is written, see `batch_norm`. If it is x, a following `backward` raises, since x is gone.

        Returns
        -------
        y : ndarray
            See `batch_norm`.

        Raises
        ------
        TypeError, ValueError
            As `batch_norm`, as `nonfinite` and `one_value` say, and for training with eps outside the root. Nothing has
            been changed then.
        """
        if self._ranks is not None:
            options.check_rank(self, x)
        if not self.training and self.running_mean is not None:
            mean, var, weight, bias, eps = batches.running_line(self, out)
            return _core.inference(
                x,
                mean,
                var,
                weight,
                bias,
                eps,
                self.axis,
                out,
                None,
                self.num_features,
                self.activation,
                self.negative_slope,
                residual,
                mask,
                sample_weight,
            )
        y, batch, update = training.forward(self, x, residual, mask, sample_weight, out)
        if self.training:
            in_place = out is not None and np.may_share_memory(batch.x, out)
            kept = (None, "the training call overwrote x (out=x)") if in_place else (batch, "")
            _core.complete(self, update, *kept, batch.mean, batch.inv_std)
        return y

    @_core.default_rounding
    def backward(self, dy, *, out=None):
        """Return the gradient with respect to x of the last training call, and set weight_grad and bias_grad.

        Parameters
        ----------
        dy : ndarray
            The loss's gradient with respect to y, of x's shape and dtype.
        out : ndarray, optional
            Where dx is written; may be dy. After a call with a residual a pair, for dx and dresidual; the latter may
            share no memory with anything else.

        Returns
        -------
        dx : ndarray
            After a call with a residual ``dx, dresidual``.

        Raises
        ------
        RuntimeError
            If there was no training call, if `eval` came after it, or if it overwrote x.
        TypeError, ValueError
            If dy or out does not fit. Nothing has been changed then.

        Notes
        -----
        x, the mask and the weights of that call are referred to, and with an activation y is, too: they must not have
        been changed.
        """
        saved = self._saved
        if saved is None:
            raise RuntimeError(f"backward must follow a training call that kept x; got {self._why_none}")
        written = () if out is None else out if isinstance(out, tuple) else (out,)
        for array in written:
            _core.check_layer_apart(self, array)
        dx, dweight, dbias, *dresidual = saved.gradients(self, dy, out)
        with np.errstate(all="ignore"):
            dweight = None if self.weight is None else dweight.astype(self.dtype, copy=False)
            dbias = None if self.bias is None else dbias.astype(self.dtype, copy=False)
        overwrote, gradients = any(map(saved.shares_memory, written)), (dx, *dresidual) if dresidual else dx
        with _core.lock:  # what follows needs no memory
            self.weight_grad, self.bias_grad = dweight, dbias
            if overwrote and self._saved is saved:
                self._saved, self._why_none = None, "the last backward overwrote x or y"
        return gradients


class BatchNorm1d(BatchNorm):
    """`BatchNorm` for input of rank 2 or 3, such as (N, C) or (N, C, L); other ranks are a ValueError."""

    _ranks = (2, 3)


class BatchNorm2d(BatchNorm):
    """`BatchNorm` for input of rank 4, such as (N, C, H, W); other ranks are a ValueError."""

    _ranks = (4,)


class BatchNorm3d(BatchNorm):
    """`BatchNorm` for input of rank 5, such as (N, C, D, H, W); other ranks are a ValueError."""

    _ranks = (5,)
