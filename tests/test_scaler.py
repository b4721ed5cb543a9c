"""test_scaler: scikit-learn's StandardScaler as a layer and back."""

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

import cbn
import cbn.interop.sklearn as interop


def samples(seed=0, number=20):
    x = np.random.default_rng(seed).normal([3, -1, 1e4], [1, 0.1, 20], (number, 3))
    return np.column_stack([x, np.full(number, 7.0)])  # with a constant feature


@pytest.mark.parametrize("options", [{}, {"with_mean": False}, {"with_std": False}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_transformation(options, dtype):
    scaler = StandardScaler(**options).fit(samples())
    layer = interop.from_scaler(scaler)
    x = samples(1).astype(dtype)
    y = layer(x)
    assert y.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(y, scaler.transform(x.astype(float)), rtol=8 * eps, atol=8 * eps)


def test_options_changed_after_the_fit():
    x = samples()
    for changed in ({"with_mean": False}, {"with_std": False}, {"with_mean": False, "with_std": False}):
        scaler = StandardScaler().fit(x).set_params(**changed)
        np.testing.assert_allclose(interop.from_scaler(scaler)(x), scaler.transform(x), rtol=1e-14, atol=1e-14)
    scaler = StandardScaler(with_mean=False, with_std=False).fit(x)
    for changed in ("with_mean", "with_std"):  # transform fails, too
        with pytest.raises(TypeError, match="scaler must be fitted with the options that it has now; got Standard"):
            interop.from_scaler(scaler.set_params(**{"with_mean": False, "with_std": False, changed: True}))


def test_there_and_back():
    scaler = StandardScaler().fit(samples())
    back = interop.to_scaler(interop.from_scaler(scaler))
    np.testing.assert_array_equal(back.mean_, scaler.mean_)
    np.testing.assert_array_equal(back.scale_, scaler.scale_)
    np.testing.assert_array_equal(back.transform(samples(1)), scaler.transform(samples(1)))
    np.testing.assert_array_equal(back.var_[:3], scaler.var_[:3])
    assert back.n_features_in_ == 4 and not hasattr(back, "n_samples_seen_")  # the constant feature has no variance
    x = samples(2)
    np.testing.assert_allclose(back.inverse_transform(back.transform(x)), x)


def test_number_of_samples():
    scaler = StandardScaler().fit(samples()[:, :3])
    layer = interop.from_scaler(scaler)
    assert layer.count == 20 and interop.to_scaler(layer).n_samples_seen_ == 20
    undivided = StandardScaler(with_std=False).fit(samples())
    assert interop.from_scaler(undivided).count is None
    fresh = interop.to_scaler(cbn.BatchNorm(3))
    assert interop.from_scaler(fresh).count is None  # which has seen none
    moving = cbn.BatchNorm(4, convention="onnx")
    moving(samples().astype(np.float32))
    assert not hasattr(interop.to_scaler(moving), "n_samples_seen_")  # its mean is no mean of samples


def test_it_goes_on_from_there():
    """partial_fit pools, as if it had seen the layer's samples itself."""
    layer = cbn.BatchNorm(4, momentum=None, dtype=np.float64, affine=False)
    layer(samples(0))
    scaler = interop.to_scaler(layer).partial_fit(samples(1))
    wanted = StandardScaler().fit(np.vstack([samples(0), samples(1)]))
    np.testing.assert_allclose(scaler.mean_, wanted.mean_)
    np.testing.assert_allclose(scaler.var_[:3], wanted.var_[:3])
    assert scaler.n_samples_seen_ == 40


def test_a_trained_layer():
    """Of torch's convention, with eps: the scaler takes the biased variance, or y of evaluation as it is."""
    layer = cbn.BatchNorm1d(4, eps=0.01, dtype=np.float64)
    layer(samples(0))
    scaler = interop.to_scaler(layer, variance="keep")
    np.testing.assert_allclose(scaler.transform(samples(1)), layer.eval()(samples(1)), rtol=1e-12, atol=1e-12)
    assert not hasattr(scaler, "n_samples_seen_")
    scaler = interop.to_scaler(layer)
    np.testing.assert_allclose(scaler.var_, 0.9 + 0.1 * samples(0).var(axis=0))


def test_features_with_nan():
    """Of different numbers of samples."""
    x = samples()
    x[3, 1] = np.nan
    scaler = StandardScaler().fit(x)
    layer = interop.from_scaler(scaler)
    assert layer.count is None
    np.testing.assert_allclose(layer(samples(1)), scaler.transform(samples(1)), rtol=1e-14, atol=1e-14)


def test_what_a_scaler_is_not():
    with pytest.raises(TypeError, match=r"scaler must be a fitted StandardScaler; got StandardScaler\(\)"):
        interop.from_scaler(StandardScaler())
    layer = cbn.BatchNorm(2)
    layer.bias[...] = 3
    with pytest.raises(ValueError, match="bias must be 0 in every channel, as in StandardScaler; got others"):
        interop.to_scaler(layer)
