"""test_pickles: copies of layers, moments and normalizers, by copy, by pickle and in other processes."""

import copy
import multiprocessing
import pickle

import ml_dtypes
import numpy as np
import pytest

import cbn

X = np.random.default_rng(0).standard_normal((6, 3, 5)).astype(np.float32)
OPTIONS = [
    {},
    {"momentum": None, "dtype": np.float64, "activation": "leaky_relu", "negative_slope": 0.25},
    {"convention": "keras", "dtype": np.float16},
    {"dtype": ml_dtypes.bfloat16, "bias": False},
    {"renorm": True, "renorm_clipping": {"rmax": 3.0}},
    {"virtual_batch_size": 2, "nonfinite": "skip"},
    {"zero_debias": True, "weight": False},
    {"track_running_stats": False},
    {"affine": False, "frozen": True},
    {"convention": cbn.Convention("own", eps=0.5)},
]
COPIES = {f"pickle {n}": n for n in range(pickle.HIGHEST_PROTOCOL + 1)} | {"copy": copy.copy, "deepcopy": copy.deepcopy}
MOMENTS = [
    cbn.Moments(5, [1.0], [2.0]),
    cbn.Moments(2.5, [np.nan], [np.inf]),
    cbn.Moments([3, 0], [1.0, 0.0], [2.0, 0.0]),
]


@pytest.fixture(params=COPIES.values(), ids=COPIES)
def copied(request):
    if callable(request.param):
        return request.param
    return lambda value: pickle.loads(pickle.dumps(value, request.param))


def trained(options, cls=cbn.BatchNorm):
    layer = cls(3, **options)
    if layer.convention.eps_place == "inside":
        layer(X.astype(layer.dtype))
    return layer


def bits(layer):
    return {name: value.tobytes() for name, value in layer.state_dict().items()}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_layers(options, copied):
    """A copy has the same state, shares no memory, and goes on by itself."""
    layer = trained(options)
    other = copied(layer)
    assert type(other) is cbn.BatchNorm and repr(other) == repr(layer) and bits(other) == bits(layer)
    assert other.state_dict()._metadata == layer.state_dict()._metadata and other.training is layer.training
    with pytest.raises(RuntimeError, match="backward must follow a training call that kept x; got a copy of a layer"):
        other.backward(X.astype(layer.dtype))
    before = bits(layer)
    y = other(X.astype(layer.dtype))
    assert bits(layer) == before
    np.testing.assert_array_equal(y, layer(X.astype(layer.dtype)))
    assert bits(other) == bits(layer)


class Own(cbn.BatchNorm1d):
    """Of a user, with an attribute of its own."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.notes = ["a"]


def test_a_class_of_the_user(copied):
    layer = trained({}, Own)
    other = copied(layer)
    assert type(other) is Own and other.notes == ["a"] and bits(other) == bits(layer)


@pytest.mark.parametrize("moments", MOMENTS, ids=str)
def test_moments(moments, copied):
    other = copied(moments)
    assert type(other) is cbn.Moments and repr(other) == repr(moments)
    before = repr(moments)
    other.merge(moments)
    assert repr(moments) == before


class OwnMoments(cbn.Moments):
    """Of a user, with attributes."""


def test_moments_of_a_class_of_the_user(copied):
    moments = OwnMoments(3, [1.0], [2.0])
    moments.source = "a"
    other = copied(moments)
    assert type(other) is OwnMoments and other.source == "a" and repr(other) == repr(moments)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"count": -1}, "count must be from 0"),
        ({"m2": [1.0, 2.0]}, "m2 must have shape"),
        ({"m2": [-1.0]}, "m2 must be >= 0"),
        ({"mean": np.array([object()])}, "mean must be an array of real numbers"),
        ({"mean": "x"}, "mean must be"),
    ],
)
def test_moments_are_checked_again(change, error):
    state = cbn.Moments(5, [1.0], [2.0]).__getstate__()
    with pytest.raises((TypeError, ValueError), match=error):
        cbn.Moments.__new__(cbn.Moments).__setstate__(state | change)
    del state["m2"]
    with pytest.raises(KeyError):
        cbn.Moments.__new__(cbn.Moments).__setstate__(state)


NOT_NEEDED = ("weight_grad", "bias_grad", "batch_mean", "batch_inv_std", "_why_none", "training", "affine")  # by those


def test_a_layer_that_lacks_an_attribute():
    """As from a pickle that was tampered with: an error from what needs it, and no crash."""
    state = trained({"zero_debias": True}).__getstate__()
    for name in state:
        layer = cbn.BatchNorm.__new__(cbn.BatchNorm)
        layer.__setstate__({key: value for key, value in state.items() if key != name})
        raised = 0
        for call in (repr, lambda a: a.train()(X), lambda a: a.eval()(X), lambda a: a.state_dict(), lambda a: a.count):
            try:
                call(layer)
            except (AttributeError, TypeError, ValueError):
                raised += 1
        assert raised or name in NOT_NEEDED, name


def test_normalizers(copied):
    normalizer = cbn.FeatureNormalizer(axis=-1, with_mean=False, nan="propagate").fit(X)
    other = copied(normalizer)
    assert repr(other) == repr(normalizer)
    np.testing.assert_array_equal(other.transform(X), normalizer.transform(X))
    other.partial_fit(X)
    assert other.moments.count == 2 * normalizer.moments.count


def _elsewhere(layer, moments, normalizer):
    y = layer.eval()(X)
    moments.update(X)
    return layer, y, moments, normalizer.partial_fit(X)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_processes(method):
    """There and back."""
    layer, moments, normalizer = trained({}), cbn.moments(X), cbn.FeatureNormalizer().fit(X)
    with multiprocessing.get_context(method).Pool(1) as pool:
        other, y, both, grown = pool.apply(_elsewhere, (layer, moments, normalizer))
        pool.close()
        pool.join()
    assert bits(other) == bits(layer) and both.count == 60 and grown.moments.count == 60
    np.testing.assert_array_equal(y, layer.eval()(X))
