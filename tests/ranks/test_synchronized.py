"""test_synchronized: layers of several ranks, threads here: what they compute, and how they fail together."""

import copy
import importlib.util
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import on_ranks
import pytest

import cbn
from cbn.interop.communicators import ThreadCommunicator
from cbn.interop.mpi import RankError, SyncBatchNorm


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", on_ranks.CASES)
def test_case(name, size):
    on_ranks.in_threads(size, on_ranks.CASES[name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(6, 5, 8, 8), (40, 5), (6, 5, 7, 7), (2, 5, 300, 301)])
def test_one_rank_is_a_batch_norm_bit_for_bit(shape, dtype):
    x, dy = ((np.random.default_rng(seed).standard_normal(shape) + 3).astype(dtype) for seed in (0, 1))
    plain = cbn.BatchNorm(5)
    y = plain(x)
    dx = plain.backward(dy)
    layer = SyncBatchNorm(5, comm=ThreadCommunicator.group(1)[0])
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(layer.backward(dy), dx)
    np.testing.assert_array_equal(layer.running_var, plain.running_var)
    np.testing.assert_array_equal(layer.weight_grad, plain.weight_grad)


def alone(**options):
    return SyncBatchNorm(2, comm=ThreadCommunicator.group(1)[0], **options)


@pytest.mark.parametrize(("name", "value"), [("virtual_batch_size", 4), ("renorm", True)])
def test_options_of_other_batches_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be (None|False) in a synchronized layer; got {value}"):
        alone(**{name: value})


def test_comm_must_be_a_communicator():
    with pytest.raises(TypeError, match="comm must be an MPI communicator, or have a method allgather; got int"):
        SyncBatchNorm(2, comm=3)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (1.5, TypeError)])
def test_threads_must_be_some(size, error):
    with pytest.raises(error, match=r"size must be .*; got"):
        ThreadCommunicator.group(size)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "1", None])
def test_timeouts_must_be_seconds(timeout):
    with pytest.raises(ValueError, match="timeout must be a number of seconds above 0; got"):
        ThreadCommunicator.group(2, timeout)


def test_a_thread_that_does_not_come_is_not_waited_for():
    layer = SyncBatchNorm(2, comm=ThreadCommunicator.group(2, timeout=0.05)[0])
    before = layer.state_dict()
    with pytest.raises(TimeoutError, match="allgather must be joined by every thread; got no answer"):
        layer(np.ones((3, 2)))
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    with pytest.raises(ValueError, match="x must have 2 channels") as raised:
        layer(np.ones((3, 3)))
    assert "The other ranks could not be told" in raised.value.__notes__[0]


class Own:
    """The least that a communicator can be; it changes what it gives by a function."""

    def __init__(self, change):
        self.change = change

    def allgather(self, values):
        return self.change(values[np.newaxis])


def test_any_object_with_allgather_will_do():
    layer = SyncBatchNorm(2, comm=Own(np.copy))
    y = layer(np.array([[1.0, 2.0], [3.0, 6.0]]))
    np.testing.assert_allclose(y, [[-1, -1], [1, 1]], rtol=1e-5)
    assert copy.deepcopy(layer)._exchange.communicator is layer._exchange.communicator


@pytest.mark.parametrize(
    "change",
    [
        np.ravel,
        lambda rows: rows[:0],
        lambda rows: rows[:, :1],
        lambda rows: rows.astype(np.float32),
        lambda rows: None,
    ],
)
def test_what_allgather_returns_is_checked(change):
    layer = SyncBatchNorm(2, comm=Own(change))
    with pytest.raises(TypeError, match=r"communicator.allgather must return float64 of shape \(ranks, 5\); got"):
        layer(np.ones((3, 2)))
    assert layer.num_batches_tracked == 0


def test_files_hold_a_batch_norm(tmp_path):
    layer = alone(eps=1e-3, activation="relu")
    layer(np.random.default_rng(0).standard_normal((5, 2)))
    layer.save(tmp_path / "norm.npz")
    loaded = cbn.BatchNorm.load(tmp_path / "norm.npz")
    assert type(loaded) is cbn.BatchNorm and repr(loaded) == repr(layer).replace("Sync", "")
    np.testing.assert_array_equal(loaded.running_var, layer.running_var)
    assert loaded.count == layer.count == 5


def test_backward_needs_a_training_call():
    layer = alone()
    for modes in (layer.train, layer.eval):
        modes()
        with pytest.raises(RuntimeError, match="backward must follow a training call"):
            layer.backward(np.ones((3, 2)))


def test_parameters_that_do_not_fit_are_found_before_the_ranks_agree():
    layer = alone()
    layer.weight = np.ones(5, np.float32)
    with pytest.raises(ValueError, match=r"weight must have shape \(2,\)"):
        layer(np.ones((3, 2)))
    layer = alone()
    y = layer(np.random.default_rng(0).standard_normal((5, 2)))
    layer.weight = np.ones(5, np.float32)
    with pytest.raises(ValueError, match=r"weight must have shape \(2,\)"):
        layer.backward(y)


def test_without_mpi4py_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    with pytest.raises(ImportError, match=r"mpi4py must be installed \(pip install 'cbn\[mpi\]'\)"):
        SyncBatchNorm(2)


def test_rows_with_gaps_are_read_as_what_they_are():
    """C reads the sums as they lie in memory."""

    def reversed_twice(rows):
        return np.ascontiguousarray(rows[:, ::-1])[:, ::-1]

    x, dy = (np.random.default_rng(seed).standard_normal((9, 300)) for seed in (0, 1))
    plain, layer = cbn.BatchNorm(300), SyncBatchNorm(300, comm=Own(reversed_twice))
    np.testing.assert_array_equal(layer(x), plain(x))
    np.testing.assert_array_equal(layer.backward(dy), plain.backward(dy))


@pytest.mark.parametrize(
    "text", ["caf\udce9.npy", "x" * 511 + "\u00e9", "", type("Broken", (), {"__str__": lambda self: 1 / 0})()]
)
def test_any_error_reaches_the_others(text):
    """Whatever its text is made of."""

    class Bad(np.lib.mixins.NDArrayOperatorsMixin):
        def __array__(self, dtype=None, copy=None):
            raise OSError(text)

    def run(ranks):
        layer = SyncBatchNorm(2, comm=ranks.comm)
        with pytest.raises(OSError if ranks.rank == 0 else RankError) as raised:
            layer(Bad() if ranks.rank == 0 else np.ones((3, 2)))
        return raised.value

    _, told = on_ranks.in_threads(2, run, timeout=5)
    assert "got OSError" in str(told) and "(rank 0)" in str(told)


def test_an_interrupt_on_one_rank_reaches_the_others():
    def run(ranks):
        layer = SyncBatchNorm(2, comm=ranks.comm)
        if ranks.rank == 0:
            layer._exchange.described = interrupted
        with pytest.raises(KeyboardInterrupt if ranks.rank == 0 else RankError) as raised:
            layer(np.ones((3, 2)) + np.arange(2))
        return raised.value

    def interrupted(layer):
        raise KeyboardInterrupt

    assert "KeyboardInterrupt" in str(on_ranks.in_threads(2, run, timeout=5)[1])


def test_one_layer_in_two_threads_is_refused():
    inside, go_on = threading.Event(), threading.Event()

    def waiting(rows):
        inside.set()
        go_on.wait(10)
        return np.copy(rows)

    layer, x = SyncBatchNorm(2, comm=Own(waiting)), np.array([[1.0, 2.0], [3.0, 6.0]])
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(layer, x)
        inside.wait(10)
        try:
            with pytest.raises(RuntimeError, match="must be called by one thread at a time; got a second"):
                layer(x)
        finally:
            go_on.set()
        assert first.result().shape == (2, 2)
    assert layer.num_batches_tracked == 1


def test_an_error_leaves_layers_in_step():
    """Ranks that have crossed their calls once go on."""

    def run(ranks):
        first, second = (SyncBatchNorm(2, comm=ranks.comm, momentum=momentum) for momentum in (0.1, 0.2))
        x = np.random.default_rng(ranks.rank).standard_normal((4, 2))
        with pytest.raises(ValueError, match="options must be the same on every rank"):
            (first, second)[ranks.rank](x)
        return first(x), second(x)

    on_ranks.in_threads(2, run)


def test_weights_of_all_ranks_must_sum_to_more_than_one():
    def run(ranks, weight):
        layer = SyncBatchNorm(2, comm=ranks.comm)
        return layer(np.random.default_rng(ranks.rank).standard_normal((2, 2)), sample_weight=[weight, weight])

    with pytest.raises(ValueError, match="sample_weight must sum to more than 1 for an unbiased running variance"):
        on_ranks.in_threads(2, lambda ranks: run(ranks, 0.25))
    on_ranks.in_threads(2, lambda ranks: run(ranks, 0.3))  # 0.6 on each


def test_backward_refuses_on_all_ranks_what_one_cannot_do():
    def run(ranks):
        layer = SyncBatchNorm(2, comm=ranks.comm, activation="relu")
        x, mask = np.random.default_rng(ranks.rank).standard_normal((2, 4, 2))[0], np.ones(4, bool)
        y = layer(x, mask=mask)
        is_bad = ranks.rank == 0
        with pytest.raises(ValueError if is_bad else RankError, match="out must share no memory with weight"):
            layer.backward(y, out=np.broadcast_to(layer.weight, (4, 2)) if is_bad else None)
        layer(x, out=x if is_bad else None)
        with pytest.raises(RuntimeError, match="overwrote x"):
            layer.backward(y)

    on_ranks.in_threads(2, run)


def test_no_channels_and_one_sample():
    assert SyncBatchNorm(0, comm=Own(np.copy))(np.empty((1, 0))).shape == (1, 0)


def test_statistics_of_a_population_are_refused_before_anything_is_written():
    layer = SyncBatchNorm(2, comm=Own(np.copy), nonfinite="raise")
    out = np.full((3, 2), 7.0)
    with pytest.raises(ValueError, match="channel 0"):
        cbn.recompute_statistics(layer, [np.full((3, 2), np.nan)], lambda x: layer(x, out=out))
    assert (out == 7).all()


def test_recomputing_on_one_rank_alone_is_an_error_on_all():
    def run(ranks):
        layer, x = SyncBatchNorm(2, comm=ranks.comm), np.random.default_rng(0).standard_normal((4, 2))
        with pytest.raises(ValueError, match=r"while statistics are recomputed \(rank 0\)"):
            cbn.recompute_statistics(layer, [x]) if ranks.rank == 0 else layer(x)

    on_ranks.in_threads(2, run)
