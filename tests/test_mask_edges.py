"""test_mask_edges: nothing that counts, counts that are no integers, ways to give a mask, and gradients of it all."""

import numpy as np
import pytest
from cases import DTYPES, filled, parameters
from holds import hold
from test_masks import dtypes, options_of, shapes

import cbn

F32 = np.float32


@shapes
@dtypes
def test_a_batch_of_which_nothing_counts(shape, axis, dtype):
    """Mean and variance 0; gradients 0 where all is masked; but with weights of 0 y still depends on x."""
    x = filled(shape, axis, dtype)
    weight, bias = parameters(shape[axis], dtype)
    running = np.full(shape[axis], 3, F32), np.full(shape[axis], 2, F32)
    for nothing in ({"mask": False}, {"sample_weight": 0}, {"mask": False, "sample_weight": 0.5}):
        y = cbn.batch_norm(x, *running, weight, bias, True, axis=axis, eps=0.25, **nothing)
        assert (running[0] == 3).all() and (running[1] == 2).all()
        again, mean, inv_std = cbn.batch_norm_forward(x, weight, bias, 0.25, axis=axis, **nothing)
        assert (mean == 0).all() and (inv_std == 2).all()
        fixed = cbn.batch_norm(x, mean, mean, weight, bias, eps=0.25, axis=axis)
        np.testing.assert_array_equal(y, again)
        np.testing.assert_array_equal(y, fixed)
        moments = cbn.moments(x, axis=axis, **nothing)
        assert moments.count == 0 and (moments.mean == 0).all() and (moments.m2 == 0).all()
        hold(x, axis, 0.25, **nothing)
        if "mask" in nothing:
            bad = np.full_like(x, np.nan)
            gradients = cbn.batch_norm_backward(bad, bad, mean, inv_std, weight, axis=axis, residual=True, **nothing)
            assert all((g == 0).all() for g in gradients)


def test_ways_to_say_the_same():
    """Broadcasting masks and weights, numbers, lists and integers; one weight per sample."""
    x, dy = filled((4, 3, 5, 6), 1, F32), filled((4, 3, 5, 6), 1, F32, seed=4)
    samples = np.array([1, 0, 3, 2])

    def everything(**options):
        y, mean, inv_std = cbn.batch_norm_forward(x, **options)
        return [y, mean, inv_std, *cbn.batch_norm_backward(dy, x, mean, inv_std, **options)]

    row = np.arange(6) > 1
    for same in (
        [{"mask": row}, {"mask": row.tolist()}, {"mask": np.broadcast_to(row, (4, 5, 6))}, {"mask": row[None, None]}],
        [{"sample_weight": w} for w in (samples, samples.tolist(), samples.astype(F32), samples[:, None, None])],
        [{"sample_weight": w} for w in (2.5, np.full(4, 2.5), np.full((4, 5, 6), 2.5), np.full((1, 1, 1), 2.5))],
    ):
        expected = everything(**same[0])
        for options in same[1:]:
            for a, b in zip(everything(**options), expected, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f64"])
def test_many_fractions_add_up(dtype):
    """A million weights of 0.1, which is no number of base two."""
    x = filled((1000, 1, 1000), 1, dtype)
    plain, weighted = cbn.moments(x), cbn.moments(x, sample_weight=np.full((1000, 1000), 0.1))
    assert abs(weighted.count - 1e5) <= 2 * np.spacing(1e5)
    np.testing.assert_allclose(weighted.var(), plain.var(), rtol=1e-14)


def test_float_counts_merge():
    x, weights = filled((60, 3, 5), 1, np.float64), np.random.default_rng(0).random(60)
    whole = cbn.moments(x, sample_weight=weights)
    parts = [cbn.moments(x[i : i + 20], sample_weight=weights[i : i + 20]) for i in (0, 20, 40)]
    merged = parts[0] + parts[1]
    merged.merge(cbn.Moments.from_dict(parts[2].to_dict()))
    assert type(merged.count) is float and type(whole.to_dict()["count"]) is float
    np.testing.assert_allclose(
        [merged.count, *merged.mean, *merged.m2], [whole.count, *whole.mean, *whole.m2], rtol=1e-12
    )
    merged.update(x[:2])
    assert merged.count == pytest.approx(whole.count + 10)
    running = np.zeros(3), np.ones(3)
    cbn.update_running(*running, whole, 0.5)
    direct = np.zeros(3), np.ones(3)
    cbn.batch_norm(x, *direct, training=True, momentum=0.5, sample_weight=weights)
    np.testing.assert_array_equal(running, direct)
    for count, message in ((0.5, "more than 1"), (1.0, "more than 1")):
        with pytest.raises(ValueError, match=f"moments.count must be {message}"):
            cbn.update_running(*running, cbn.Moments(count, [0.0] * 3, [1.0] * 3), 0.5)
    assert running[0].tolist() == direct[0].tolist()
    cbn.update_running(*running, cbn.Moments(0.5, [0.0] * 3, [1.0] * 3), 1.0, unbiased=False)
    assert running[1].tolist() == [2.0] * 3


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("training", [True, False])
def test_finite_differences(training, axis):
    """All options at once, in float64, against differences of the compiled forward pass itself."""
    shape = (6, 3, 4)
    options = options_of("all", shape, axis)
    x, dy = filled(shape, axis, np.float64), filled(shape, axis, np.float64, seed=5)
    weight, bias = parameters(shape[axis], np.float64)
    weight[1] = 0.7
    residual = options.pop("residual")
    counted = np.expand_dims(options["mask"], axis)
    fixed = None if training else (bias / 3, weight**2 + 0.5)

    def loss(x, weight, bias, residual):
        more = (weight, bias, training)
        y = cbn.batch_norm(x, *(fixed or (None, None)), *more, axis=axis, residual=residual, **options)
        return (y * dy * counted).sum(), y

    if training:
        y, mean, inv_std = cbn.batch_norm_forward(x, weight, bias, axis=axis, residual=residual, **options)
    else:
        y, mean, inv_std = loss(x, weight, bias, residual)[1], fixed[0], 1 / np.sqrt(fixed[1] + 1e-5)
    gradients = cbn.batch_norm_backward(
        dy, x, mean, inv_std, weight, axis=axis, training=training, y=y, residual=True, **options
    )
    arguments = [x, weight, bias, residual]
    for argument, gradient_of in zip(arguments, gradients, strict=True):
        for index in np.ndindex(argument.shape):
            kept, sides = argument[index], []
            for step in (1e-6, -1e-6):
                argument[index] = kept + step
                sides.append(loss(*arguments)[0])
            argument[index] = kept
            assert abs((sides[0] - sides[1]) / 2e-6 - gradient_of[index]) < 1e-7
