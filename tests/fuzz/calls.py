"""calls: one call of a public function each, with arguments from a source, and what must be true of its result."""

import agreement
import numpy as np
from agreement import copied
from drawing import ABSURD, DTYPES
from rules import RAISED, must

import cbn


def axis_of(s, rank):
    return s.number(1, -1, 0, 2, 1, rank, -rank) if rank > 1 else s.number(1, 0, -1)


def channels_of(shape, axis):
    whole = isinstance(axis, int) and not isinstance(axis, bool) and -len(shape) <= axis < len(shape)
    return shape[axis] if whole else 3


def batch(s, most=5):
    """x, its shape, dtype and axis, the parameters' dtype, and threads."""
    shape, dtype = s.shape(most=most), s.pick(DTYPES)
    axis = axis_of(s, len(shape))
    own = s.pick((dtype, np.dtype(np.float32), np.dtype(np.float64)))
    return s.array(shape, dtype), shape, dtype, axis, own


def named(s, shape, axis, dtype, x):
    kwargs = s.extras(shape, axis if type(axis) is int else 1, dtype, x)
    return {**kwargs, "axis": axis, "num_threads": s.number(None, 1, 2, 3)}


def checked(r, name, function, args, kwargs, agree, written=(), repeats=True):
    """The call, and if it returned: its outputs, the oracle on copies of what it was given, and its bits again."""
    copies, named_copies = [copied(a) for a in args], {key: copied(value) for key, value in kwargs.items()}
    result = r.call(name, function, *args, written=(*written, kwargs.get("out")), **kwargs)
    if result is RAISED:
        return RAISED
    out = kwargs.get("out")
    if out is not None:
        first = result[0] if isinstance(result, tuple) else result
        must(first is out or first is out[0], f"{name} must return out; got another array")
    with np.errstate(all="ignore"):
        if repeats:
            agreement.same_bits(name, function, copies, named_copies, result)
        if agree is not None:
            agree(copies, named_copies, result)
    return result


def batch_norm_forward(s, r):
    x, shape, dtype, axis, own = batch(s)
    c = channels_of(shape, axis)
    args = [x, s.parameter(c, own), s.parameter(c, own), s.number(1e-5, 0.0, 1.0, 1e-12)]
    checked(r, "batch_norm_forward", cbn.batch_norm_forward, args, named(s, shape, axis, dtype, x), agreement.forward)


def batch_norm(s, r):
    x, shape, dtype, axis, own = batch(s)
    if s.rarely(8):
        dtype, x = np.dtype(np.float32), s.array(shape, np.uint8)
    c, training = channels_of(shape, axis), s.number(False, True)
    running = [s.array((c,), own), s.array((c,), own, "positive")] if not s.rarely(8) else [None, s.pick(ABSURD)]
    args = [x, *running, s.parameter(c, own), s.parameter(c, own), training, s.number(0.1, 0.0, 1.0)]
    args.append(s.number(1e-5, 0.0, 1.0))
    kwargs = named(s, shape, axis, dtype, x)
    changes = training is not False
    agree = None if changes else agreement.inference
    checked(r, "batch_norm", cbn.batch_norm, args, kwargs, agree, running if changes else ())


def batch_norm_backward(s, r):
    """With the statistics of x where they can be had, else with any."""
    x, shape, dtype, axis, own = batch(s)
    c, kwargs = channels_of(shape, axis), named(s, shape, axis, dtype, x)
    residual, out = kwargs.pop("residual", None), kwargs.pop("out", None)
    try:
        y, mean, inv_std = cbn.batch_norm_forward(x, residual=residual, **kwargs)
    except (TypeError, ValueError, RuntimeError):
        y, mean, inv_std = s.array(shape, dtype), s.array((c,), "f8"), s.array((c,), "f8", "positive")
    if s.rarely(4):
        mean, inv_std = s.array((c,), own), s.array((c,), own, "positive")
    dy = s.array(shape, dtype)
    kwargs |= {"residual": s.number(False, True), "training": s.number(True, False)}
    if "activation" in kwargs:
        kwargs["y"] = y
    if out is not None:
        kwargs["out"] = s.pick((out, dy))
        if kwargs["residual"]:
            kwargs["out"] = (kwargs["out"], s.array(shape, dtype))
    args = [dy, x, mean, inv_std, s.parameter(c, own)]
    written = kwargs["out"] if isinstance(kwargs.get("out"), tuple) else ()
    checked(r, "batch_norm_backward", cbn.batch_norm_backward, args, kwargs, agreement.backward, written)


def double_backward(s, r):
    x, shape, dtype, axis, own = batch(s)
    c = channels_of(shape, axis)
    args = [s.array(shape, dtype), s.parameter(c, own), s.parameter(c, own), s.array(shape, dtype), x]
    args += [s.array((c,), "f8"), s.array((c,), "f8", "positive"), s.parameter(c, own)]
    kwargs = {"axis": axis, "training": s.number(True, False), "num_threads": s.number(None, 1, 2, 3)}
    checked(r, "double_backward", cbn.batch_norm_double_backward, args, kwargs, None)


def moments(s, r):
    x, shape, dtype, axis, _ = batch(s)
    kwargs = named(s, shape, axis, dtype, x)
    for name in ("activation", "negative_slope", "residual", "out"):
        kwargs.pop(name, None)
    checked(r, "moments", cbn.moments, [x], kwargs, agreement.moments, repeats=False)


def moments_alone(s, r):
    """Moments from numbers, and their arithmetic."""
    c = s.pick((3, 1, 0, 5))
    found = []
    for _ in range(2):
        count = s.number(4, 0, 1.5, 2**62) if not s.rarely(4) else s.array((c,), "i8")
        args = (count, s.array((c,), "f8"), s.array((c,), "f8", "positive"))
        found.append(r.call("Moments", cbn.Moments, *args))
    a, b = found
    if RAISED in (a, b):
        return
    total = r.call("Moments +", lambda: a + b)
    if total is not RAISED and np.isfinite(total.mean).all():
        r.call("Moments -", lambda: total - b)
    r.call("Moments.merge", a.merge, b)
    r.call("Moments.update", a.update, s.array((4, c), s.pick(DTYPES)), s.number(1, 0, -1))
    r.call("Moments.var", a.var, s.number(0, 1))
    values = a.to_dict() | ({s.pick(("count", "mean", "m2", "n")): s.pick(ABSURD)} if s.rarely(2) else {})
    r.call("Moments.from_dict", cbn.Moments.from_dict, s.number(values, values, values))


def update_running(s, r):
    c, dtype = s.pick((3, 1, 0, 17)), s.pick(DTYPES)
    running = [s.array((c,), dtype), s.array((c,), dtype, "positive")]
    batch_moments = r.call("Moments", cbn.Moments, s.number(4, 1, 0, 2.5), s.array((c,), "f8"), s.array((c,), "f8"))
    args = [*running, s.pick(ABSURD) if batch_moments is RAISED else batch_moments, s.number(0.1, 0.0, 1.0)]
    r.call("update_running", cbn.update_running, *args, unbiased=s.number(True, False), written=running)


def normalize_images(s, r):
    shape = s.shape(least=3, most=5)
    axis, first = s.number(-1, 1, 0, -3), s.number(True, False)
    c = channels_of(shape, axis)
    images = s.array(shape, np.uint8)
    layer = None
    if s.rarely(4):
        layer = cbn.BatchNorm(c, activation=s.pick((None, "relu"))).eval()
    kwargs = {"axis": axis, "channels_first": first, "num_threads": s.number(None, 1, 2)}
    if s.rarely(3) and isinstance(images, np.ndarray) and images.ndim == len(shape):
        kwargs["out"] = s.array(np.moveaxis(images, -1, -3).shape if first is True else shape, np.float32)
    args = [images, s.array((c,), "f8"), s.array((c,), "f8", "weights")]
    agree = agreement.images if layer is None else None
    checked(r, "normalize_images", cbn.normalize_images, args, {**kwargs, "layer": layer}, agree)


def folds(s, r):
    out, into, kernel = s.pick((4, 1, 2, 6)), s.pick((3, 1, 2)), s.pick(((3, 3), (1,), (0, 2), (2, 1, 2)))
    following, dtype = s.number(False, True), s.pick(DTYPES)
    c = into if following is True else out
    norm = (s.array((c,), "f8"), s.array((c,), "f8"))
    if s.rarely(4):
        norm = s.number(cbn.BatchNorm(c).eval(), cbn.BatchNorm(c), cbn.BatchNorm(c, activation="relu").eval())
    verify = s.number(None, True, False)
    if s.rarely(2):
        args = (s.array((out, into), dtype), s.parameter(out, dtype), norm)
        r.call("fold_linear", cbn.fold_linear, *args, axis=s.number(0, 1, -1, -2), following=following, verify=verify)
        return
    args = (s.array((out, into, *kernel), dtype), s.parameter(out, dtype), norm)
    kwargs = {"groups": s.number(1, 1, 2), "transposed": s.number(False, True), "padding": s.number(0, 0, 1, (0, 0))}
    r.call("fold_conv", cbn.fold_conv, *args, **kwargs, axis=s.number(None, 0, -1), following=following, verify=verify)
    r.call("fold_affine", cbn.fold_affine, norm, s.number((s.array((c,), "f8"), s.array((c,), "f8")), norm))


def features(s, r):
    c = s.pick((3, 1, 5))
    options = {"axis": s.number(1, 1, -1, 0), "nan": s.number("skip", "raise", "propagate")}
    options |= {"with_mean": s.number(True, False), "with_std": s.number(True, False)}
    normalizer = r.call("FeatureNormalizer", cbn.FeatureNormalizer, **options)
    if normalizer is RAISED:
        return
    for _ in range(s.pick((2, 1, 3))):
        shape, dtype = (s.pick((4, 1, 0, 9)), c), s.pick(DTYPES)
        weight = s.array(shape[:1], "f8", "weights") if s.rarely(4) else None
        known = normalizer.moments
        x = s.array(shape, dtype)
        result = r.call("fit", s.pick((normalizer.partial_fit, normalizer.fit)), x, sample_weight=weight)
        same = known is normalizer.moments or repr(known) == repr(normalizer.moments)
        must(result is not RAISED or same, "fit must leave the moments as they were")
    for apply in (normalizer.transform, normalizer.inverse_transform):
        x, out = s.array(shape, dtype), s.array(shape, dtype) if s.rarely(2) else None
        r.call("transform", apply, x, out=out, written=[out])


CALLS = [batch_norm_forward, batch_norm, batch_norm_backward, double_backward, moments, moments_alone, update_running]
CALLS += [normalize_images, folds, features]
