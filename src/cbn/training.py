"""training: what a training call of a layer does, as its options say, but for its end, the commit."""

from . import _core, ghosts, renormalization, synchronized
from .batches import Batch, collected, inverse_std, line_now, running_line

__all__ = ["forward"]


def forward(layer, x, residual, mask, sample_weight, out):
    """Return y, the batch, and the update of the running statistics that `_core.complete` takes."""
    given = (residual, mask, sample_weight)
    if layer.frozen and layer.running_mean is None:
        raise ValueError("frozen must be False without running statistics; got True")
    if layer.frozen:
        return _frozen(layer, x, *given, out)
    if layer.convention.eps_place != "inside":
        raise ValueError(f"convention must have eps inside the root for training; got {layer.convention.name!r}")
    if layer.training and layer._exchange is not None:
        return synchronized.forward(layer, x, *given, out)
    if layer.training and layer.virtual_batch_size is not None:
        return ghosts.forward(layer, x, *given, out)
    if layer.training and layer.renorm:
        return renormalization.forward(layer, x, *given, out)
    collect = layer._collect if layer.training else None
    tracked = layer.training and layer.track_running_stats and collect is None
    y, mean, m2, inv_std, count, x, update = _core.forward(
        x,
        layer.weight,
        layer.bias,
        layer.eps,
        layer.axis,
        out,
        None,
        layer.running_mean if tracked else None,
        layer.running_var if tracked else None,
        layer.convention.weight_of_new(layer.momentum),
        layer.num_batches_tracked if tracked else None,
        True,
        layer.num_features,
        layer.activation,
        layer.negative_slope,
        *given,
        layer.one_value == "zero_var",
        layer.nonfinite,
        layer.zero_debias,
        layer.convention.variance,
        layer._history,
    )
    if collect is not None:
        collected(layer, collect, [(count, mean, m2)])
    return y, Batch(layer, x, y, mean, inv_std, *given), update


@_core.default_rounding
def _frozen(layer, x, residual, mask, sample_weight, out):
    """With the running statistics, as they are now."""
    x = _core.laid_out(x, layer.axis, layer.num_features)
    _core.check_layer_apart(layer, out)
    if layer.convention.eps_place == "inside":
        mean, var, weight, bias, eps = *line_now(layer), layer.eps
    else:
        mean, var, weight, bias, eps = running_line(layer)
    extras = (layer.activation, layer.negative_slope, residual, mask, sample_weight)
    parameters = (mean, var, weight, bias, eps, layer.axis)
    y = _core.inference(x, *parameters, out, None, layer.num_features, *extras)
    inv_std = inverse_std(var, eps)
    return y, Batch(layer, x, y, mean, inv_std, residual, mask, sample_weight, training=False), None
