"""on_ranks: what every rank of a group does and checks, whatever carries its messages: threads, or MPI."""

import copy
import hashlib
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
from cases import assert_within, half_unit

import cbn
from cbn.expected import Expected
from cbn.interop.communicators import ThreadCommunicator
from cbn.interop.mpi import RankError, SyncBatchNorm
from cbn.report import Report

CASES = {}


class Ranks:
    """One rank's view: its communicator, number and size, and `collect`, which gives every rank what all have."""

    def __init__(self, comm, rank, size, collect):
        self.comm, self.rank, self.size, self.collect = comm, rank, size, collect


def in_threads(size, function, timeout=30):
    """The results of function(ranks) of so many threads; an exception of one is raised, the first before others'."""
    barrier, shared = threading.Barrier(size, timeout=timeout), [None] * size

    def collector(rank):
        def collect(value):
            shared[rank] = value
            barrier.wait()
            values = list(shared)
            barrier.wait()
            return values

        return collect

    def run(rank):
        try:
            return function(Ranks(comms[rank], rank, size, collector(rank)))
        except BaseException:
            barrier.abort()
            raise

    comms = ThreadCommunicator.group(size, timeout)
    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError | TimeoutError))
    return [future.result() for future in futures]


def case(function):
    CASES[function.__name__] = function
    return function


def cuts(size, samples, seed=0):
    """Where the samples are cut: unequal parts, from three ranks on with an empty one."""
    places = np.sort(np.random.default_rng(seed + size).integers(1, samples, size - 1))
    if size > 2:
        places[1] = places[0]
    return places


def own(array, places, rank, axis=0):
    return np.split(array, places, axis)[rank]


def trained(ranks, x, dy, given=None, places=None, samples=0, **options):
    """The layer, y, dx (and dresidual) of this rank's part; `samples` is the axis that is cut."""
    places = cuts(ranks.size, x.shape[samples]) if places is None else places
    layer = SyncBatchNorm(x.shape[options.get("axis", 1)], comm=ranks.comm, **options)
    with_parameters(layer)
    mine = {name: own(value, places, ranks.rank, samples) for name, value in (given or {}).items()}
    y = layer(own(x, places, ranks.rank, samples), **mine)
    gradients = layer.backward(own(dy, places, ranks.rank, samples))
    return layer, y, gradients


def with_parameters(layer):
    rng = np.random.default_rng(1)
    for array in (layer.weight, layer.bias):
        if array is not None:
            array[...] = rng.standard_normal(array.shape)


def hold(ranks, x, dy, given=None, samples=0, **options):
    """What all ranks have together is what the contract allows for the whole batch, on every rank the same."""
    layer, y, gradients = trained(ranks, x, dy, given, samples=samples, **options)
    state = {name: array.tobytes() for name, array in layer.state_dict().items()}
    assert all(other == state for other in ranks.collect(state))
    whole = cbn.BatchNorm(x.shape[options.get("axis", 1)], **options)
    with_parameters(whole)
    twin = copy.deepcopy(whole)
    twin.load_state_dict(layer.state_dict())
    twin.batch_mean, twin.batch_inv_std = layer.batch_mean, layer.batch_inv_std
    parts = {name: ranks.collect(getattr(layer, name)) for name in ("weight_grad", "bias_grad")}
    for name, rounded in parts.items():
        if rounded[0] is not None:
            setattr(twin, name, np.sum(np.array(rounded, np.float64), axis=0).astype(layer.dtype))
    y = np.concatenate(ranks.collect(y), samples)
    pairs = zip(*[part if isinstance(part, tuple) else (part,) for part in ranks.collect(gradients)], strict=True)
    gradients = tuple(np.concatenate(parts, samples) for parts in pairs)
    expected = Expected(whole, x, dy, given or {})
    with np.errstate(all="ignore"):
        report = [*expected.forward(twin, y)]
        report += expected.backward(twin, gradients if "residual" in (given or {}) else gradients[0], y)
        if layer.dtype.itemsize == 2:  # each rank has rounded its part of these, so that the sum is off by more
            report = [comparison for comparison in report if comparison.quantity not in ("dweight", "dbias")]
            for rounded, exact in zip(parts.values(), expected.parts[0].gradients(y)[1:], strict=False):
                allowed = sum(half_unit(part.astype(np.float64), layer.dtype) for part in rounded)
                assert_within(np.sum(np.array(rounded, np.float64), axis=0), exact, allowed + 5e-6 * np.sqrt(x.size))
        report += expected.running(twin) if layer.track_running_stats else []
    assert Report(report).ok, str(Report(report))


def values(shape, dtype, offset=0.0, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) + offset).astype(dtype)


def unchanged(layer, call):
    """What the call returns, or raises; in that case nothing of the layer may change."""
    before = layer.state_dict()
    try:
        return call()
    except Exception as error:
        for name, array in layer.state_dict().items():
            np.testing.assert_array_equal(array, before[name])
        return error


@case
def dtypes(ranks):
    for dtype, offset in itertools.product((np.float32, np.float64, np.float16, ml_dtypes.bfloat16), (0, 100)):
        x = values((11, 5, 4, 4), dtype, offset)
        hold(ranks, x, values(x.shape, dtype, seed=2), dtype=dtype)
    x = values((9, 3), np.float64)
    hold(ranks, x, values(x.shape, np.float64, seed=2))  # in a float32 layer


@case
def layouts(ranks):
    for shape, axis, samples in (((14, 70), 1, 0), ((9, 7, 5, 3), -1, 0), ((4, 37), 0, 1), ((8, 3, 2, 3, 5), 1, 0)):
        x = values(shape, np.float32, 3.0)
        hold(ranks, x, values(shape, np.float32, seed=2), axis=axis, samples=samples)
    last = np.moveaxis(values((8, 6, 6, 4), np.float32), -1, 1)
    _, y, dx = trained(ranks, last, last)
    assert y.strides == dx.strides == own(last, cuts(ranks.size, 8), ranks.rank).strides or y.size == 0
    hold(ranks, last, values(last.shape, np.float32, seed=2))


@case
def far_from_zero_and_apart(ranks):
    """A mean of 1e6 deviations, and parts whose means differ by as much as their values: no digit may be lost."""
    ramp = np.linspace(-1, 1, 24)[:, None, None] + values((24, 3, 8), np.float64) * 0.1
    for offset in (1e3, 1e6, -3e5):
        x = (ramp + offset).astype(np.float32)
        hold(ranks, x, values(x.shape, np.float32, seed=2))
    hold(ranks, (ramp * 1e30).astype(np.float32), values(ramp.shape, np.float32, seed=2))


@case
def variants(ranks):
    x, dy = values((12, 4, 3, 3), np.float32), values((12, 4, 3, 3), np.float32, seed=2)
    mask = np.random.default_rng(3).random((12, 3, 3)) < 0.7
    weight = np.random.default_rng(4).uniform(0, 2, 12) * (np.arange(12) % 5 > 0)
    residual = values(x.shape, np.float32, seed=5)
    hold(ranks, x, dy, {"residual": residual}, activation="relu")
    hold(ranks, x, dy, {"mask": mask}, activation="leaky_relu", negative_slope=0.2)
    hold(ranks, x, dy, {"mask": mask, "sample_weight": weight, "residual": residual}, activation="relu")
    hold(ranks, x, dy, {"sample_weight": weight})
    for options in ({"affine": False}, {"bias": False}, {"momentum": None}, {"track_running_stats": False}):
        hold(ranks, x, dy, **options)
    for name in ("keras", "tf_fused", "onnx", "lecture", "flax"):
        hold(ranks, x, dy, convention=name)
    hold(ranks, x, dy, zero_debias=True, eps=0.0)


@case
def all_parts_of_a_loss(ranks):
    """Three steps of gradient descent are those of one process."""
    x, target = values((15, 6), np.float64, 2.0), values((15, 6), np.float64, seed=7)
    whole, layer = cbn.BatchNorm(6, dtype=np.float64), SyncBatchNorm(6, dtype=np.float64, comm=ranks.comm)
    places = cuts(ranks.size, 15)
    for _ in range(3):
        whole.backward(whole(x) - target)
        layer.backward(layer(own(x, places, ranks.rank)) - own(target, places, ranks.rank))
        for name in ("weight", "bias"):
            getattr(whole, name)[...] -= 0.1 * getattr(whole, name + "_grad")
            getattr(layer, name)[...] -= 0.1 * sum(ranks.collect(getattr(layer, name + "_grad")))
    np.testing.assert_allclose(layer.weight, whole.weight, rtol=1e-13)
    np.testing.assert_allclose(layer.running_var, whole.running_var, rtol=1e-13)
    np.testing.assert_allclose(layer.eval()(x), whole.eval()(x), rtol=1e-12, atol=1e-13)


@case
def one_value_in_all(ranks):
    layer = SyncBatchNorm(3, comm=ranks.comm)
    y = layer(values((1, 3), np.float32, seed=ranks.rank)) if ranks.size > 1 else None
    assert ranks.size == 1 or (y.shape == (1, 3) and layer.num_batches_tracked == 1)
    single = values((1 if ranks.rank == ranks.size - 1 else 0, 3), np.float32)
    error = unchanged(layer, lambda: layer(single))
    assert isinstance(error, ValueError) and "Expected more than 1 value per channel" in str(error)
    assert "on all ranks together" in str(error)
    layer.one_value = "zero_var"
    np.testing.assert_array_equal(layer(single), np.zeros_like(single))


@case
def nothing_anywhere(ranks):
    layer = SyncBatchNorm(2, comm=ranks.comm)
    before = layer.state_dict()
    assert layer(np.empty((0, 2), np.float32)).shape == (0, 2)
    assert layer.backward(np.empty((0, 2), np.float32)).shape == (0, 2)
    assert all((array == before[name]).all() for name, array in layer.state_dict().items())
    masked = layer(values((3, 2), np.float32), mask=np.zeros(3, bool))
    assert np.isfinite(masked).all() and layer.num_batches_tracked == 0


@case
def policies_for_nan(ranks):
    x = values((6, 3), np.float32)
    x[-1, 1] = np.nan
    places = cuts(ranks.size, 6)
    for policy in ("raise", "skip", "propagate"):
        layer, out = SyncBatchNorm(3, comm=ranks.comm, nonfinite=policy), np.zeros((6, 3), np.float32)
        out = own(out, places, ranks.rank)
        result = unchanged(layer, lambda to=out, layer=layer: layer(own(x, places, ranks.rank), out=to))
        if policy == "raise":
            assert isinstance(result, ValueError) and "channel 1" in str(result) and not out.any()
        else:
            assert (np.isnan(result) == ([False, True, False])).all()
            assert layer.num_batches_tracked == (policy == "propagate")
            assert np.isnan(layer.running_mean[1]) == (policy == "propagate")


@case
def modes_that_send_nothing(ranks):
    """Each rank calls them as often as it likes."""
    layer = SyncBatchNorm(2, comm=ranks.comm).eval()
    for _ in range(ranks.rank):
        layer(values((3, 2), np.float32))
    layer = SyncBatchNorm(2, comm=ranks.comm, frozen=True)
    for _ in range(ranks.rank):
        layer.backward(layer(values((3, 2), np.float32)))


@case
def statistics_of_a_population(ranks):
    batches = [values((10, 2), np.float32, seed=seed) for seed in range(3)]
    layer, places = SyncBatchNorm(2, comm=ranks.comm), cuts(ranks.size, 10)
    cbn.recompute_statistics(layer, [own(batch, places, ranks.rank) for batch in batches])
    np.testing.assert_allclose(layer.running_var, np.concatenate(batches).var(axis=0, ddof=1), rtol=1e-6)
    assert layer.num_batches_tracked == 3 and layer.count == 30


@case
def an_error_on_one_rank_is_one_on_all(ranks):
    layer = SyncBatchNorm(3, comm=ranks.comm)
    good, bad = values((4, 3), np.float32), values((4, 5), np.float32)
    last = ranks.size - 1
    for wrong in (lambda: layer(bad), lambda: layer(good.astype(int)), lambda: layer(good, mask=np.ones(9, bool))):
        error = unchanged(layer, wrong if ranks.rank == last else lambda: layer(good))
        assert isinstance(error, Exception) and isinstance(error, RankError) == (ranks.rank != last)
        assert ranks.rank == last or f"(rank {last})" in str(error)
        texts = ranks.collect(str(error))
        assert all(texts[last] in text for text in texts), texts
    y = layer(good)  # as if nothing had happened
    error = unchanged(layer, lambda: layer.backward(bad if ranks.rank == 0 else y))
    assert isinstance(error, RankError) == (ranks.rank != 0) and "dy must have" in str(error)
    layer.backward(y)
    assert layer.num_batches_tracked == 1


@case
def disagreement_is_an_error_on_all(ranks):
    if ranks.size == 1:
        return
    x, is_first = values((4, 3), np.float32), ranks.rank == 0

    def refused(layer, call, text):
        error = unchanged(layer, call)
        assert type(error) is ValueError and text in str(error), error
        assert len(set(ranks.collect(str(error)))) == 1

    layer = SyncBatchNorm(3, comm=ranks.comm)
    refused(layer, lambda: layer(x.astype(np.float64 if is_first else np.float32)), "dtype of x must be the same on")
    other = SyncBatchNorm(3 + is_first, comm=ranks.comm)
    refused(other, lambda: other(values((4, 3 + is_first), np.float32)), "options must be the same on every rank")
    layer.momentum = 0.5 if is_first else 0.1
    refused(layer, lambda: layer(x), "momentum=0.5, affine=True, bias=True, track_running_stats=True) (rank 0)")
    layer.momentum = 0.1
    y = layer(x)
    refused(layer, lambda: layer.backward(y) if is_first else layer(x), "forward")
    layer.running_var[0] += is_first
    refused(layer, lambda: layer(x), "running_var must be the same on every rank; got 1")


@case
def parts_of_the_world(ranks):
    """Layers of ranks that meet in groups; only for communicators that can be split."""
    split = getattr(getattr(ranks.comm, "comm", ranks.comm), "Split", None)
    if split is None:
        return
    group = split(ranks.rank % 2, -ranks.rank)
    layer = SyncBatchNorm(2, comm=group)
    x = values((4, 2), np.float32, seed=ranks.rank)
    layer(x)
    members = [other for other in range(ranks.size) if other % 2 == ranks.rank % 2][::-1]
    whole = cbn.batch_norm_forward(np.concatenate([values((4, 2), np.float32, seed=other) for other in members]))
    np.testing.assert_allclose(layer.batch_mean, whole[1], rtol=1e-13)
    group.Free()


@case
def files_are_those_of_a_batch_norm(ranks):
    layer = SyncBatchNorm(2, comm=ranks.comm, eps=1e-3)
    layer(values((4, 2), np.float32))
    copied = copy.deepcopy(layer)
    assert type(copied) is SyncBatchNorm
    copied(values((4, 2), np.float32, seed=1))  # with the same ranks
    assert copied.num_batches_tracked == 2 and layer.num_batches_tracked == 1
    assert layer.check(values((4, 2), np.float32, seed=ranks.rank)).ok  # alone


def bits(ranks):
    """A number of all bits that a few steps of all ranks give."""
    found = hashlib.sha256()
    for dtype, axis in itertools.product((np.float32, np.float64), (1, -1)):
        x, dy = values((13, 6, 5, 7), dtype, 50.0), values((13, 6, 5, 7), dtype, seed=2)
        layer, y, dx = trained(ranks, x, dy, axis=axis)
        for part in ranks.collect([y, dx, layer.weight_grad, layer.running_mean, layer.running_var]):
            for array in part:
                found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
