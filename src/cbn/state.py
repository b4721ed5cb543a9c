"""state: what a layer is between calls: its mode, state dict, file and copies, and what it is held against."""

import copy
from collections import OrderedDict

import numpy as np

from . import _core, batches, checkpoint, conventions, drift, options, verify

__all__ = ["State"]


class State:
    """The part of `BatchNorm` that normalizes nothing."""

    _exchange = None  # with other ranks, where the batches of training calls have a part on each
    _collect = None  # takes count, mean and m2 of each training batch while `recompute_statistics` runs

    def train(self, mode=True):
        """Switch to training mode (or evaluation mode, if mode is False), and return the layer."""
        self.training = _core.check_flag(mode, "mode")
        if not self.training:
            self._forget()  # inference holds no memory
        return self

    def eval(self):
        """Switch to evaluation mode, letting go of what `backward` needs, and return the layer."""
        return self.train(False)

    def reset_running_stats(self):
        """Set the running statistics to 0 (mean) and 1 (var), those of renorm, too, and num_batches_tracked to 0."""
        self._reset()

    def reset_parameters(self):
        """Reset the running statistics, and set weight to 1 and bias to 0."""
        self._reset((self.weight, 1), (self.bias, 0))

    def _reset(self, *others):
        pairs = [(self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0), (self._history, (0, 1))]
        pairs += [(self.renorm_mean, 0), (self.renorm_std, 1), *others]
        with _core.lock:
            pairs = [pair for pair in pairs if pair[0] is not None]
            _core.assign([target for target, _ in pairs], [value for _, value in pairs])

    def _forget(self):
        self._saved, self._why_none = None, "none"
        self.batch_mean = self.batch_inv_std = None

    @property
    def convention(self):
        """The `Convention`; may be set to one, or to a name. It changes neither eps and momentum nor the statistics.

        `cbn.convert` makes a layer that changes them, too.
        """
        return self._convention

    @convention.setter
    def convention(self, value):
        value = conventions.named(value)
        with _core.lock:
            before = self._convention
            forgets = before.variance != value.variance and self.count != 0  # something else is averaged from now on
            self._convention = value
            try:
                options.check_together(self)
                if forgets:
                    self._forget_count()
            except BaseException:
                self._convention = before
                raise

    @property
    def count(self):
        """Values per channel of the training batches, if all had the same number; 0 of none; None if unknown.

        After `recompute_statistics` the number that its mode makes the variance unbiased with.
        """
        return self._known_history()["count"]

    def _forget_count(self):
        if self._history is not None:
            self._history[0] = np.nan

    def _known_history(self):
        """What converts the running variance: count, and the weight that its start 1 still has; None if unknown."""
        if self._history is None:
            return {"count": None, "start": None}
        count, start = self._history.tolist()
        return {
            "count": None if count != count else int(count) if count.is_integer() else count,
            "start": None if start != start else start,
        }

    @_core.default_rounding
    def affine_map(self):
        """Return scale and shift with ``y = scale * x + shift`` in evaluation mode.

        Returns
        -------
        scale, shift : ndarray of float64, shape (C,)
            ``weight / sqrt(running_var + eps)``, or what the convention has for that, and
            ``bias - scale * running_mean``: Algorithm 2, line 11.

        Raises
        ------
        RuntimeError
            If the layer has no running statistics.
        ValueError
            If a running variance is negative.
        """
        if self.running_mean is None:
            raise RuntimeError("affine_map must be called on a layer with running statistics; got none")
        _core.check_not_negative(self.running_var, "running_var")
        with _core.lock, np.errstate(all="ignore"):  # a channel that is not finite
            mean, var, weight, bias, eps = batches.running_line(self)
            scale = batches.inverse_std(var.astype(np.float64), eps)
            if weight is not None:
                scale *= weight
            return scale, (0 if bias is None else bias) - scale * mean

    def check(self, x, dy=None, *, residual=None, mask=None, sample_weight=None):
        """Compare forward, backward, running update and inference on x with the oracle. Leaves the layer as it was.

        Parameters
        ----------
        x : ndarray
            A training input of this layer.
        dy : ndarray, optional
            A gradient for backward; random if it is not given.
        residual, mask, sample_weight
            Of the call, as in `batch_norm`.

        Returns
        -------
        Report
            The largest error of each quantity and its bound, in ulp; it prints as a table.

        Raises
        ------
        OracleMismatch
            If an error is larger than the numerics contract allows.
        """
        report = verify.check_layer(self, x, dy, residual=residual, mask=mask, sample_weight=sample_weight)
        if not report.ok:
            raise verify.OracleMismatch(report)
        return report

    def drift(self, x, *, mask=None, sample_weight=None, samples=None, max_shift=0.5, max_ratio=2.0):
        """Compare the moments of x with the running statistics. The layer stays as it is, in either mode.

        Parameters
        ----------
        x : array_like, also uint8, with num_features channels on `axis`, or Moments
            What the layer is given where it serves, of 2 values per channel or more; or the `moments` of many such.
        mask, sample_weight
            Which positions count, and how often, as in `batch_norm`.
        samples : float from 1 to the count, optional
            How many values of a channel are independent. By default the samples of x, since the values of one image
            hang together, or the count of Moments. It is meant for normal values: of n with heavier tails take
            ``n * 2 / (kurtosis - 1)``, or up to 3 % of exponential channels (kurtosis 9) stand out by chance.
        max_shift : float >= 0
            The mean shift that does not matter, in standard deviations; infinite to watch the variances only.
        max_ratio : float >= 1
            The ratio of variances, either way, that does not matter; infinite to watch the means only.

        Returns
        -------
        Drift
            Shifts, ratios and the channels that stand out; it prints as a table, and has `plot` and `to_dict`.

        Raises
        ------
        RuntimeError
            If the layer has no running statistics.
        TypeError, ValueError
            If x or an argument does not fit; x must have one count for all channels if it is Moments.

        Notes
        -----
        The variance of x is of the kind that the convention averages, so a layer that was set to the statistics of x
        has no shift and a ratio of 1, up to its dtype. A channel stands out if its shift or ratio is beyond both what
        matters and what sampling makes of so many normal values: 4 standard errors of the mean, ``4 / sqrt(samples)``,
        and as much of the variance. Channels with a mean or variance that is not finite always stand out. For this,
        and only for this, eps counts to both variances, as in y: what eps hides is no alarm.

        Examples
        --------
        >>> import numpy as np, cbn
        >>> rng = np.random.default_rng(0)
        >>> layer = cbn.BatchNorm(3)
        >>> cbn.recompute_statistics(layer, [rng.normal(0, 1, (1000, 3))])
        >>> print(layer.drift(rng.normal([0, 0, 2], [1, 2, 1], (500, 3))))
        2 of 3 channels stand out (500 values per channel, from 500 samples)
         channel  mean shift      variance ratio
               2        2.05               0.913  stands out
               1     -0.0263                4.33  stands out
               0       0.144                 1.1
          limits         0.5            0.5 to 2
        """
        return drift.drift_of(self, x, mask, sample_weight, samples, max_shift, max_ratio)

    def _state(self):
        names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked", "renorm_mean", "renorm_std")
        return OrderedDict((name, getattr(self, name)) for name in names if getattr(self, name) is not None)

    def state_dict(self):
        """Return copies of parameters and statistics, with torch's keys in torch's order.

        Returns
        -------
        OrderedDict of ndarray
            ``_metadata`` holds the version (2), eps, the convention, `count`, and the weight that the start of the
            running variance still has. ``torch.from_numpy`` of each array makes it a state for torch.
        """
        with _core.lock:
            state = OrderedDict((name, value.copy()) for name, value in self._state().items())
            known = self._known_history()
        own = {"version": 2, "eps": self.eps, "convention": self.convention.to_dict(), **known}
        state._metadata = OrderedDict({"": own})
        return state

    def load_state_dict(self, state, strict=True):
        """Copy parameters and statistics from a state, such as torch's.

        Parameters
        ----------
        state : dict of array_like
            Arrays or CPU tensors. ``num_batches_tracked`` may be missing unless the metadata says version 2, as in
            torch's old states; it is then 0.
        strict : bool
            Whether the keys must be exactly this layer's.

        Returns
        -------
        LoadResult
            The keys that were missing, and those that were not expected.

        Raises
        ------
        ValueError
            For missing or unexpected keys (if strict), wrong shapes, negative variances, or metadata that say another
            eps, running variance or place of eps than this layer's (`convert` makes a layer that has it). Nothing has
            been changed then.
        TypeError
            For values that are no real numbers.
        """
        return checkpoint.load_state(self, state, strict)

    def save(self, path):
        """Write the layer to a file: its state, options and class. An existing file is replaced at once.

        Parameters
        ----------
        path : str or path-like
            Ends in ``.npz``, or in ``.safetensors``, which needs the library of that name; other programs find torch's
            keys in both.

        Raises
        ------
        TypeError, ValueError
            If an attribute or array has been changed to what `load` would refuse. An old file stays as it was.
        ImportError
            If safetensors is needed and not installed.
        """
        checkpoint.save(self, path)

    @classmethod
    def load(cls, path):
        """Read a layer from a file that `save` wrote. Nothing in the file is ever executed.

        Parameters
        ----------
        path : str or path-like
            Ends in ``.npz`` or ``.safetensors``.

        Returns
        -------
        BatchNorm
            Of the class that was saved, or of the one asked for if that derives from it; in training mode.

        Raises
        ------
        ValueError
            If the file is no such file, is damaged, or holds a layer of another class.
        ImportError
            If the layer is bfloat16, and ml_dtypes is not installed.
        """
        return checkpoint.load(cls, path)

    def __getstate__(self):
        left_out = ("_saved", "_collect")
        with _core.lock:
            return {name: copy.copy(value) for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._saved, self._why_none = None, "a copy of a layer"
