"""test_feature_normalizer: cbn.interop.sklearn.FeatureNormalizer in scikit-learn, and against its StandardScaler."""

import io
import itertools
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import cbn
from cbn.interop.sklearn import FeatureNormalizer, from_scaler

OPTIONS = [{}, {"with_mean": False}, {"with_std": False}, {"with_mean": False, "with_std": False}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("nan", ["skip", "raise", "propagate"])
def test_checks_of_estimators(options, nan):
    results = check_estimator(FeatureNormalizer(**options, nan=nan), on_skip=None)
    left = {result["check_name"] for result in results if result["status"] != "passed"}
    assert len(results) > 40 and left <= {"check_sample_weights_pandas_series", "check_array_api_input"}


def samples(seed=0, number=60, missing=0.0):
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal([3, -1, 1e4], [1, 0.1, 20], (number, 3)), np.full(number, 7.0)])
    x[rng.random(x.shape) < missing] = np.nan
    return x


FLOATS = (np.float16, np.float32, np.float64)


@pytest.mark.parametrize(("dtype", "missing"), [(int, 0), *((dtype, share) for dtype in FLOATS for share in (0, 0.2))])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_as_standard_scaler(options, dtype, weighted, missing):
    x = samples(missing=missing).astype(dtype)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(x)) if weighted else None
    ours = FeatureNormalizer(**options).fit(x, sample_weight=weights)
    theirs = StandardScaler(**options).fit(x.astype(float), sample_weight=weights)
    names = ["mean_", "var_", "scale_"]
    if len(options) < 2:  # else it counts samples, also where these have weights
        names.append("n_samples_seen_")
    for name in names:
        if getattr(theirs, name) is None:
            assert getattr(ours, name) is None
        else:
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-10, atol=1e-24)
    y = ours.transform(x)
    assert y.dtype == (np.float64 if dtype is int else dtype)
    exact = theirs.transform(x.astype(float))
    eps = np.finfo(y.dtype).eps
    np.testing.assert_allclose(y, exact, rtol=2 * eps, atol=2 * eps if y.dtype != np.float64 else 1e-11)
    back = theirs.inverse_transform(y.astype(float))
    terms = np.abs(back) + 2 * np.abs(0 if theirs.mean_ is None else theirs.mean_)  # at least |y * scale| + |mean|
    assert not (np.abs(ours.inverse_transform(y) - back) > 2 * eps * np.maximum(terms, 1)).any()
    layer = from_scaler(ours)
    np.testing.assert_allclose(layer(x.astype(float)), exact, rtol=1e-11, atol=1e-11)


values = st.one_of(st.floats(-1e4, 1e4, width=32), st.just(np.float32(np.nan)))
batches = hnp.arrays(np.float32, st.tuples(st.integers(2, 40), st.integers(1, 4)), elements=values)


@given(batches, st.data())
@settings(deadline=None, max_examples=100)
def test_any_batches(x, data):
    """Weighted or not, with NaN. StandardScaler gets float64, since it sums weights in x's dtype."""
    weights = data.draw(st.none() | hnp.arrays(np.float64, len(x), elements=st.floats(0.125, 8)))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(1, len(x) - 1), unique=True, max_size=3))), len(x)]
    ours, theirs = FeatureNormalizer(), StandardScaler()
    for i, j in itertools.pairwise(cuts):
        part = None if weights is None else weights[i:j]
        ours.partial_fit(x[i:j], sample_weight=part)
        with np.errstate(all="ignore"):
            theirs.partial_fit(x[i:j].astype(float), sample_weight=part)
    np.testing.assert_allclose(ours.n_samples_seen_, theirs.n_samples_seen_, rtol=1e-14)
    seen = ~np.isnan(theirs.mean_ + theirs.var_)  # which a batch makes NaN for good, if it has no value of a feature
    spread = np.nanmax(np.abs(x.astype(float)), axis=0, initial=0, where=~np.isnan(x))
    assert (np.abs(ours.mean_ - theirs.mean_)[seen] <= 1e-13 * spread[seen]).all()
    assert (np.abs(ours.var_ - theirs.var_)[seen] <= 1e-13 * np.square(spread[seen])).all()
    whole = FeatureNormalizer().fit(x, sample_weight=weights)
    for name, power in (("mean_", 1), ("var_", 2)):
        a, b = getattr(ours, name), getattr(whole, name)
        np.testing.assert_array_equal(np.isnan(a), np.isnan(x).all(axis=0))
        assert not (np.abs(a - b) > 1e-12 * spread**power).any()


def test_where_it_is_better_than_standard_scaler():
    nanoseconds = np.arange(10**6)[:, None] * 100.0 + 1.7e18
    nanoseconds += np.random.default_rng(0).integers(0, 1000, nanoseconds.shape) * 256
    assert StandardScaler().fit(nanoseconds).scale_ == 1  # takes them for constant
    assert abs(FeatureNormalizer().fit_transform(nanoseconds).std() - 1) < 1e-9
    x = (np.random.default_rng(0).standard_normal((1000, 1)) + 1e6).astype(np.float32)
    wide = x.astype(float)
    exact = (wide - wide.mean()) / wide.std()
    assert np.abs(FeatureNormalizer().fit_transform(x) - exact).max() < 1e-6
    assert np.abs(StandardScaler().fit_transform(x) - exact).max() > 1e-3  # its mean is rounded to float32
    batches = [[[1.0], [3.0]], [[np.nan]]]
    for scaler, expected in ((StandardScaler(), np.nan), (FeatureNormalizer(), 1)):
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(scaler.partial_fit(batches[0]).partial_fit(batches[1]).var_, [expected])
    with pytest.raises(ValueError, match="sample_weight must be 0 or lie between"):
        FeatureNormalizer().fit(x, sample_weight=np.full(1000, -1.0))


def test_in_pipelines():
    rng = np.random.default_rng(0)
    x = samples(number=200)
    y = (x[:, 0] + rng.normal(0, 0.5, 200) > 3).astype(int)
    model = make_pipeline(FeatureNormalizer(), LogisticRegression())
    wanted = make_pipeline(StandardScaler(), LogisticRegression())
    np.testing.assert_array_equal(cross_val_score(model, x, y), cross_val_score(wanted, x, y))
    search = GridSearchCV(model, {"featurenormalizer__with_std": [True, False]}, n_jobs=2).fit(x, y)
    assert search.best_score_ > 0.7
    model.fit(x, y, featurenormalizer__sample_weight=np.arange(200))
    np.testing.assert_allclose(model[0].mean_, np.average(x, axis=0, weights=np.arange(200)))
    columns = ColumnTransformer([("some", FeatureNormalizer(), [0, 2])], remainder="passthrough")
    got = columns.fit_transform(x)
    np.testing.assert_array_equal(got[:, :2], FeatureNormalizer().fit_transform(x[:, [0, 2]]))
    assert columns.get_feature_names_out().tolist() == ["some__x0", "some__x2", "remainder__x1", "remainder__x3"]


def test_clones_pickles_and_jobs():
    x = samples(missing=0.1)
    fitted = FeatureNormalizer(with_mean=False, nan="skip").fit(x)
    file = io.BytesIO()
    joblib.dump(fitted, file)
    file.seek(0)
    y = fitted.transform(x)
    for other in (pickle.loads(pickle.dumps(fitted)), joblib.load(file)):
        np.testing.assert_array_equal(other.transform(x), y)
        other.partial_fit(x)
        np.testing.assert_allclose(other.mean_, fitted.mean_)
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params() and not hasattr(fresh, "mean_")
    for got in joblib.Parallel(n_jobs=2)(joblib.delayed(fitted.transform)(x) for _ in range(2)):
        np.testing.assert_array_equal(got, y)
    assert repr(fitted) == "FeatureNormalizer(with_mean=False)"


@pytest.mark.parametrize(("before", "later"), list(itertools.permutations(OPTIONS, 2)))
def test_options_changed_later(before, later):
    """They hold at once, as if they had been those of the fit, also for what is told of it and for `from_scaler`."""
    x = samples()
    wanted = StandardScaler(**later).fit(x)
    fitted = FeatureNormalizer(**before).fit(x)
    fitted.set_params(**{"with_mean": True, "with_std": True, **later})
    np.testing.assert_allclose(fitted.transform(x), wanted.transform(x), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(from_scaler(fitted)(x), wanted.transform(x), rtol=1e-10, atol=1e-10)
    for name in ("mean_", "var_", "scale_"):
        if getattr(wanted, name) is None:
            assert getattr(fitted, name) is None
        else:
            np.testing.assert_allclose(getattr(fitted, name), getattr(wanted, name), rtol=1e-10)
    with pytest.raises(ValueError, match="nan must be 'skip', 'raise' or 'propagate'; got 'drop'"):
        fitted.set_params(nan="drop").transform(x)
    with pytest.raises(AttributeError):  # rather than to no effect
        fitted.mean_ = wanted.mean_


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_nan_of_the_time_of_another_policy(policy):
    """The statistics of its feature stay NaN. More data cannot make them right, which is said of them, not of X."""
    x = samples()
    holes = np.where(np.arange(4) == 2, np.nan, x)
    ours = FeatureNormalizer(nan="propagate").fit(holes).set_params(nan=policy)
    for call in (ours.transform, ours.inverse_transform):
        np.testing.assert_array_equal(np.isnan(call(x)), np.isnan(holes))
    before = state(ours)
    with pytest.raises(ValueError, match="moments must be finite unless nan='propagate'; got nan in feature 2"):
        ours.partial_fit(x)
    np.testing.assert_equal(state(ours), before)
    np.testing.assert_array_equal(ours.fit(x).mean_, FeatureNormalizer().fit(x).mean_)


def state(estimator):
    values = {**vars(estimator)}
    if "_moments" in values:
        values.update(values.pop("_moments").to_dict())
    return {key: np.array(value).tolist() for key, value in values.items()}


@pytest.mark.parametrize("fitted", [False, True])
def test_errors_change_nothing(fitted):
    x = samples()
    infinite = x[:, :2].copy()
    infinite[3, 1] = np.inf
    ours = FeatureNormalizer()
    if fitted:
        ours.fit(x)
    before = state(ours)
    for bad, error, message in (
        (infinite, ValueError, "X must be finite; got an infinite value in feature 1"),
        (np.ma.masked_array(x, x > 3), TypeError, "X must be an array without a mask"),
        (x[0], ValueError, "Expected 2D array, got 1D array instead"),
        (x[:0], ValueError, "Found array with 0 sample"),
        ([["a", "b"]], ValueError, "could not convert string to float"),
    ):
        for call in (ours.fit, ours.fit_transform):
            with pytest.raises(error, match=message):
                call(bad)
    for weights, message in ((np.zeros(60), "must not be zero for every sample"), (np.ones(3), "sample_weight must")):
        for call in (ours.fit, ours.fit_transform):
            with pytest.raises(ValueError, match=message):
                call(x, sample_weight=weights)
    with pytest.raises(ValueError, match="X must be finite; got an infinite value in feature 1"):
        ours.fit_transform(infinite, sample_weight=np.arange(60) % 3)  # which `fit` leaves out
    assert state(ours) == before
    if fitted:
        with pytest.raises(ValueError, match="X has 2 features, but FeatureNormalizer is expecting 4"):
            ours.partial_fit(x[:, :2])
        with pytest.raises(ValueError, match="X must have 4 features on axis 1; got 2"):
            ours.inverse_transform(x[:, :2])
        for call in (ours.transform, ours.inverse_transform):
            with pytest.raises(ValueError, match="X must be finite; got an infinite value in feature 0"):
                call(np.full((1, 4), np.inf))
            with pytest.raises(ValueError, match="X must have no NaN; got one in feature 3"):
                ours.set_params(nan="raise")
                call(np.where(np.arange(4) == 3, np.nan, x))
            ours.set_params(nan="skip")
        assert state(ours) == before
    else:
        for call in (ours.transform, ours.inverse_transform):
            with pytest.raises(NotFittedError):
                call(x)


def test_names_and_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(samples(), columns=list("abcd"))
    ours = FeatureNormalizer().set_output(transform="pandas").fit(frame)
    y = ours.transform(frame)
    assert y.columns.tolist() == ours.get_feature_names_out().tolist() == list("abcd")
    np.testing.assert_array_equal(y.to_numpy(), cbn.FeatureNormalizer().fit_transform(frame.to_numpy()))
    for values in (y, y.to_numpy()):  # without names, which are no fault
        np.testing.assert_allclose(ours.inverse_transform(values), frame)


@pytest.mark.parametrize("policy", ["skip", "raise", "propagate"])
@pytest.mark.parametrize("missing", [0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_fit_transform_is_both(weighted, missing, policy):
    x, weights = samples(missing=missing), np.arange(60.0) if weighted else None
    one, two = FeatureNormalizer(nan=policy), FeatureNormalizer(nan=policy)
    if missing and policy == "raise":
        with pytest.raises(ValueError, match="X must have no NaN"):
            one.fit_transform(x, sample_weight=weights)
        assert state(one) == state(two)
        return
    y = one.fit_transform(x, sample_weight=weights)
    np.testing.assert_array_equal(y, two.fit(x, sample_weight=weights).transform(x))
    np.testing.assert_equal(state(one), state(two))


def test_scikit_learn_is_imported_when_it_is_needed():
    script = (
        "import sys, cbn.interop.sklearn as s; assert 'sklearn' not in sys.modules;"
        "assert not hasattr(s, 'Normalizer') and 'FeatureNormalizer' in dir(s);"
        "from cbn.interop.sklearn import FeatureNormalizer; assert 'sklearn' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    without = (
        "import sys, importlib.util; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'sklearn' else find(name, *a)\n"
        "import cbn.interop.sklearn as s\n"
        "try: s.FeatureNormalizer\n"
        "except ImportError as e: print(e)"
    )
    told = subprocess.run([sys.executable, "-c", without], check=True, capture_output=True, text=True).stdout
    assert told == "sklearn must be installed (pip install 'cbn[sklearn]'); got no such module\n"
