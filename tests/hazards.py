"""hazards: every public function that takes arrays, with good arguments, by the names of these."""

import numpy as np
from cases import filled

import cbn

F32 = np.float32
X, DY, DDX, RESIDUAL = (filled((6, 3, 4), 1, F32, seed=seed) for seed in range(4))
Y, MEAN, INV_STD = cbn.batch_norm_forward(X, activation="relu")
LINE = {"weight": F32([0.5, 1, -2]), "bias": F32([1, 0, 3])}
RUNNING = {"running_mean": F32([0.5, 1, -2]), "running_var": F32([1, 0.5, 3])}
POSITIONS = {"mask": filled((6, 4), 1, F32) < 1, "sample_weight": F32([1, 2, 0.5, 1, 3, 1])}
BATCH = {"mean": MEAN, "inv_std": INV_STD, "weight": LINE["weight"]}
OUT = np.zeros_like(X)
KERNEL = filled((3, 3, 2, 2), 1, F32)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3), np.uint8)
KINDS = {
    "plain": {},
    "deviation": {"convention": "lecture"},
    "average": {"momentum": None},
    "debiased": {"zero_debias": True},
    "skip": {"nonfinite": "skip"},
    "frozen": {"frozen": True},
    "ghosts": {"virtual_batch_size": 2},
    "renorm": {"renorm": True},
}


def layer_of(kind="plain", channels=3, **options):
    """With running statistics that are not those of the start."""
    layer = cbn.BatchNorm(channels, **KINDS[kind], **options)
    layer.running_mean[...] = np.arange(channels) - 1
    layer.running_var[...] = (np.arange(channels) + 1) / 2
    return layer


def _trained(kind):
    def call(x, residual, mask, sample_weight, dy, out):
        layer = layer_of(kind, activation="relu")
        y = layer(x, residual=residual, mask=mask, sample_weight=sample_weight, out=out).copy()
        return [y, *layer.backward(dy), layer.weight_grad, layer.bias_grad, *layer.state_dict().values()]

    return call


def _served(x, residual, out):
    return [layer_of().eval()(x, residual=residual, out=out)]


def _of_moments(moments):
    return [moments.count, moments.mean, moments.m2]


def _normalized(x, sample_weight, out):
    normalizer = cbn.FeatureNormalizer().fit(X).partial_fit(x, sample_weight=sample_weight)
    y = normalizer.transform(x, out=out)
    return [*_of_moments(normalizer.moments), y, normalizer.inverse_transform(y.copy())]


def _recomputed(x):
    layer = layer_of()
    cbn.recompute_statistics(layer, [x, X], progress=False)
    return layer.state_dict().values()


def _running(running_mean, running_var, mean, m2):
    cbn.update_running(running_mean, running_var, cbn.Moments(4, mean, m2), 0.25)
    return [running_mean, running_var]


def _loaded(weight, bias, running_mean, running_var):
    layer = layer_of()
    state = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
    layer.load_state_dict(state)
    return layer.state_dict().values()


def _options(function, **options):
    return lambda **arguments: function(**arguments, **options)


# name: function of arrays alone, which returns arrays; its arguments; which of them it writes
CALLS = {
    "batch_norm": (
        lambda running_mean, running_var, **a: [
            cbn.batch_norm(running_mean=running_mean, running_var=running_var, training=True, **a),
            running_mean,
            running_var,
        ],
        {"x": X, **RUNNING, **LINE, "residual": RESIDUAL, **POSITIONS, "out": OUT},
        ("running_mean", "running_var", "out"),
    ),
    "inference": (
        lambda **a: [cbn.batch_norm(**a)],
        {"x": X, **RUNNING, **LINE, "residual": RESIDUAL, "out": OUT},
        ("out",),
    ),
    "forward": (
        _options(cbn.batch_norm_forward, activation="relu"),
        {"x": X, **LINE, **POSITIONS, "out": OUT},
        ("out",),
    ),
    "backward": (
        _options(cbn.batch_norm_backward, activation="relu"),
        {"dy": DY, "x": X, **BATCH, "y": Y, **POSITIONS, "out": OUT},
        ("out",),
    ),
    "double_backward": (
        cbn.batch_norm_double_backward,
        {"ddx": DDX, "ddweight": LINE["weight"], "ddbias": LINE["bias"], "dy": DY, "x": X, **BATCH},
        (),
    ),
    "moments": (lambda **a: _of_moments(cbn.moments(**a)), {"x": X, **POSITIONS}, ()),
    "update_running": (_running, {**RUNNING, "mean": MEAN, "m2": INV_STD}, ("running_mean", "running_var")),
    "normalize_images": (
        lambda **a: [cbn.normalize_images(**a)],
        {"images": IMAGES, "mean": MEAN, "std": 1 + INV_STD, "out": np.zeros((2, 3, 5, 6), F32)},
        ("out",),
    ),
    "fold_conv": (lambda **a: cbn.fold_conv(norm=layer_of().eval(), **a), {"weight": KERNEL, "bias": LINE["bias"]}, ()),
    "fold_linear": (
        lambda **a: cbn.fold_linear(norm=layer_of().eval(), **a),
        {"weight": KERNEL[..., 0, 0].copy(), "bias": LINE["bias"]},
        (),
    ),
    "features": (_normalized, {"x": X, "sample_weight": POSITIONS["sample_weight"], "out": OUT}, ("out",)),
    "recompute": (_recomputed, {"x": DY}, ()),
    "drift": (lambda **a: [layer_of().drift(**a).mean_shift], {"x": X, **POSITIONS}, ()),
    "load_state_dict": (_loaded, {**LINE, **RUNNING}, ()),
    "served": (_served, {"x": X, "residual": RESIDUAL, "out": OUT}, ("out",)),
    **{
        f"layer-{kind}": (_trained(kind), {"x": X, "residual": RESIDUAL, **POSITIONS, "dy": DY, "out": OUT}, ("out",))
        for kind in KINDS
    },
}


def bits(values):
    """Numbers in text keep all their bits, and what is no number compares as one."""
    return [(array.dtype.name, array.shape, repr(array.tolist())) for array in map(np.asarray, values)]


def fresh(arguments):
    return {name: array.copy() for name, array in arguments.items()}
