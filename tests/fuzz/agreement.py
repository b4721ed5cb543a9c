"""agreement: what functions return against the oracle, within the contract's bounds, and its bits again."""

import cases
import numpy as np
from holds import assert_gradients, hold_dresidual
from rules import must

import cbn
from cbn import reference

PLAIN = ("axis", "activation", "negative_slope", "residual", "mask", "sample_weight", "training", "y")


def copied(value):
    """A copy in the same memory layout, or in C order where no copy has it; what is no array stays."""
    if not isinstance(value, np.ndarray):
        return value
    copy = value.copy("K")
    return copy if copy.strides == value.strides else value.copy("C")


def native(array):
    return np.ascontiguousarray(array, np.asarray(array).dtype.newbyteorder("="))


def tame(*arrays, largest=1e5):
    """Whether the oracle's bounds are meant for such values: finite, and neither huge nor tiny."""
    for array in arrays:
        if array is not None:
            sizes = np.abs(np.asarray(array).astype(np.float64))
            if not np.isfinite(sizes).all() or (sizes > largest).any() or ((sizes > 0) & (sizes < 1e-4)).any():
                return False
    return True


def known(mean, std):
    """Whether no channel's mean is more than 1e6 of its deviations."""
    return bool(((np.abs(mean) <= 1e6 * std) | (std == 0)).all())


def bounded(y):
    """Whether y, if of 16 bits, can hold what it should be."""
    return y.dtype.itemsize > 2 or bool(np.isfinite(y.astype(np.float32)).all())


def largest_factor(weight, options):
    """What x_hat, and with it its error, is multiplied by."""
    slope = 1.5 * float(options.get("negative_slope", 0))
    return max(1, slope) * np.maximum(1, 0 if weight is None else np.abs(weight.astype(np.float64)))


def same_bits(name, function, args, kwargs, result):
    """The same from the plainest kernels on one thread, into new memory."""
    kwargs = {**kwargs, "num_threads": 1}
    kwargs.pop("out", None)
    with cbn.use_isa("baseline"):
        again = function(*map(copied, args), **{key: copied(value) for key, value in kwargs.items()})
    pairs = zip(result, again, strict=True) if isinstance(result, tuple) else [(result, again)]
    for a, b in pairs:
        must(
            a.dtype == b.dtype and a.shape == b.shape, f"{name} must have one dtype and shape; got {a.dtype}, {b.dtype}"
        )
        a, b = (v.astype(np.float32) if v.dtype.kind == "V" else v for v in (a, b))
        equal = np.array_equal(a, b, equal_nan=True)  # NaN have bits that nobody promises
        must(equal, f"{name} must have the same bits anywhere; got others")


def forward(args, kwargs, result):
    x, weight, bias, eps = args
    x, axis, y = native(x), kwargs["axis"], native(result[0])
    counting = {key: kwargs[key] for key in ("mask", "sample_weight") if key in kwargs}
    others = {key: kwargs[key] for key in ("activation", "negative_slope", "residual") if key in kwargs}
    if not tame(x, weight, bias, others.get("residual")) or not x.size:
        return
    count, mean, var, std = cases.statistics(x, axis, **counting)
    inv_std = reference._inverse_std(var, float(eps))
    if not known(mean, std):
        return
    must((np.abs(result[1] - mean) <= 1e-11 * (np.abs(mean) + std)).all(), "mean must be within its bound")
    must((np.abs(result[2] - inv_std) <= 1e-11 * inv_std).all(), "inv_std must be within its bound")
    weight, bias = (None if p is None else np.asarray(p) for p in (weight, bias))
    factor = cases.amplification(mean, std, x.dtype) * largest_factor(weight, others)
    if count and tame(inv_std) and bounded(y):
        cases.assert_y(y, x, mean, inv_std, weight, bias, axis, factor, **others)


def inference(args, kwargs, result):
    x, mean, var, weight, bias, _, _, eps = args
    x, axis, y = native(x), kwargs["axis"], native(result)
    others = {key: kwargs[key] for key in ("activation", "negative_slope", "residual") if key in kwargs}
    if not tame(x, mean, var, weight, bias, others.get("residual")):
        return
    mean, inv_std = np.asarray(mean).astype(np.longdouble), np.asarray(var).astype(np.longdouble) + float(eps)
    inv_std = np.where(inv_std == 0, 0, 1 / np.sqrt(np.where(inv_std == 0, 1, inv_std)))
    weight, bias = (None if p is None else np.asarray(p) for p in (weight, bias))
    factor = cases.amplification(mean, 1 / np.where(inv_std == 0, 1, inv_std), x.dtype)
    factor = factor * largest_factor(weight, others)
    if x.dtype == np.uint8:
        x = x.astype(np.float32)
    if tame(inv_std) and bounded(y) and known(mean, np.sqrt(np.asarray(var).astype(float) + float(eps))):
        cases.assert_y(y, x, mean, inv_std, weight, bias, axis, factor, **others)


def backward(args, kwargs, result):
    """Where mean and inv_std are those of x."""
    dy, x, mean, inv_std, weight = args
    dy, x, axis = native(dy), native(x), kwargs["axis"]
    given = {key: kwargs[key] for key in PLAIN if key in kwargs}
    counting = {key: kwargs[key] for key in ("mask", "sample_weight") if key in kwargs}
    if (
        not x.size
        or not tame(x, weight, inv_std, kwargs.get("y"))
        or not tame(dy, kwargs.get("negative_slope"), largest=8)
    ):
        return
    _, true_mean, var, std = cases.statistics(x, axis, **counting)
    if not known(true_mean, std) or not np.allclose(mean, true_mean.astype(float), 1e-9, 1e-12):
        return
    wide = np.ones(x.shape[axis]) if weight is None else np.asarray(weight).astype(np.float64)
    y = None if kwargs.get("y") is None else np.asarray(kwargs["y"]).astype(np.float64)
    given |= {"y": y, "residual": True}
    true_inv_std = reference._inverse_std(var, 1e-5)
    exact = reference.batch_norm_backward(dy.astype(float), x.astype(float), true_mean, true_inv_std, wide, **given)
    weights, _ = reference._weights(x, axis, counting.get("mask"), counting.get("sample_weight"))
    unreduced = np.abs(exact[3] * cases.spread(true_inv_std * wide, x, axis))
    unreduced = unreduced + np.abs(unreduced - exact[0])  # what is taken away may be the larger part
    factor = cases.amplification(true_mean, std, x.dtype)
    got = [native(a) for a in result]
    left, whole = (cases.largest_by_channel(values, axis) for values in (exact[0], unreduced))
    if not all(map(bounded, got)) or (left < 1e-7 * whole).any():  # all but nothing cancels: no bound is meant for that
        return
    assert_gradients(got[:3], exact[:3], weights.size, x, axis, factor, unreduced)
    if kwargs.get("residual") is True:
        hold_dresidual(got[3], exact[3], {"activation": kwargs.get("activation")})


def moments(args, kwargs, result):
    x = native(args[0])
    counting = {key: kwargs[key] for key in ("mask", "sample_weight") if key in kwargs}
    count, mean, var, std = cases.statistics(x, kwargs["axis"], **counting)
    must(abs(result.count - count) <= 1e-14 * count, f"count must be {count}; got {result.count}")
    if tame(x) and known(mean, std):
        must((np.abs(result.mean - mean) <= 1e-11 * (np.abs(mean) + std)).all(), "mean must be within its bound")
        must((np.abs(result.m2 - var * count) <= 1e-11 * var * count).all(), "m2 must be within its bound")


def images(args, kwargs, result):
    values, mean, std = args
    others = {key: kwargs[key] for key in ("axis", "channels_first")}
    if not tame(mean, std, largest=1e3) or (np.abs(np.asarray(std, float)) < 1e-3).any():
        return
    exact = reference.normalize_images(np.asarray(values), np.asarray(mean), np.asarray(std), **others)
    scale = np.maximum(np.abs(exact), 1)
    must((np.abs(result - exact) <= 4 * 2.0**-24 * scale).all(), "y must be within its bound")
