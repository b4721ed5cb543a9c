"""test_poison: a value that is not finite changes no bit of another channel, whatever is done with it."""

import numpy as np
import pytest
from cases import ALL_DTYPES, ALL_IDS, LAYOUTS, filled
from hazards import KINDS, layer_of

import cbn

SHAPES = {"planes": ((6, 4, 3, 9), 1), "NHWC": ((6, 5, 3, 4), -1), "columns": ((9, 4), 1), "rows": ((4, 4, 70), 1)}


def others(values, axis=0):
    """All channels but the second."""
    return np.delete(np.moveaxis(np.asarray(values), axis, 0), 1, axis=0).tobytes()


def everything(kind, x, dy, residual, axis, dtype):
    layer = layer_of(kind, 4, axis=axis, activation="leaky_relu", dtype=dtype)
    found = [others(layer(x, residual=residual), axis)]
    found += [others(dx, axis) for dx in layer.backward(dy)]
    found += [others(layer.weight_grad), others(layer.bias_grad)]
    found += [others(value) for value in layer.state_dict().values() if value.ndim]
    return [*found, others(layer.eval()(x, residual=residual), axis)]


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=ALL_IDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "skip"])  # which leaves out whole batches
def test_layers(kind, shape, dtype):
    """In x, dy or the residual; in the memory layouts that are native, and one that is copied."""
    (sizes, axis), names = SHAPES[shape], ("x", "dy", "residual")
    clean = {name: filled(sizes, axis, dtype, seed=seed) for seed, name in enumerate(names)}
    for layout in ("C", "channels_last", "reversed"):
        arranged = {name: LAYOUTS[layout](value, axis) for name, value in clean.items()}
        expected = everything(kind, **arranged, axis=axis, dtype=dtype)
        for name in names:
            for bad in (np.nan, np.inf, -np.inf):
                given = {other: value.copy() for other, value in clean.items()}
                np.moveaxis(given[name], axis, 0)[1].flat[[2, -1]] = bad
                given = {other: LAYOUTS[layout](value, axis) for other, value in given.items()}
                assert everything(kind, **given, axis=axis, dtype=dtype) == expected, (name, bad, layout)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_rest(shape, bad):
    """Moments, populations, features, drift; and parameters that are not finite."""
    sizes, axis = SHAPES[shape]
    clean = filled(sizes, axis, np.float64)
    spoilt = clean.copy()
    np.moveaxis(spoilt, axis, 0)[1].flat[3] = bad

    def found(x):
        layer = layer_of("plain", 4, axis=axis)
        cbn.recompute_statistics(layer, [x, clean], progress=False)
        moments = cbn.moments(x, axis=axis) + cbn.moments(clean, axis=axis)
        normalizer = cbn.FeatureNormalizer(axis=axis, nan="propagate").fit(x).partial_fit(clean)
        drift = layer_of("plain", 4, axis=axis).drift(x)
        values = [*(v for v in layer.state_dict().values() if v.ndim), moments.mean, moments.m2, normalizer.mean]
        values += [normalizer.scale, drift.mean_shift, drift.variance_ratio]
        spread = [normalizer.transform(x), normalizer.inverse_transform(x)]
        return [others(value) for value in values] + [others(value, axis) for value in spread]

    assert found(spoilt) == found(clean)

    def with_parameters(line):
        y = cbn.batch_norm(clean, line, np.abs(line), line, line, axis=axis)
        dx, *rest = cbn.batch_norm_backward(clean, clean, line, line, line, axis=axis)
        ddy, dx2, dweight = cbn.batch_norm_double_backward(clean, line, line, clean, clean, line, line, axis=axis)
        return [others(v, axis) for v in (y, dx, ddy, dx2)] + [others(v) for v in (*rest, dweight)]

    line = np.linspace(0.5, 2, 4)
    assert with_parameters(np.where(np.arange(4) == 1, bad, line)) == with_parameters(line)
