"""test_synchronized: layers of several ranks, threads here: what they compute, and how they fail together."""

import copy
import importlib.util
import sys

import numpy as np
import on_ranks
import pytest

import cbn
from cbn.interop.communicators import ThreadCommunicator
from cbn.interop.mpi import SyncBatchNorm


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", on_ranks.CASES)
def test_case(name, size):
    on_ranks.in_threads(size, on_ranks.CASES[name])


def test_one_rank_is_a_batch_norm_bit_for_bit():
    x, dy = (np.random.default_rng(seed).standard_normal((6, 5, 8, 8)) + 3 for seed in (0, 1))
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
    "change", [np.ravel, lambda rows: rows[:, :1], lambda rows: rows.astype(np.float32), lambda rows: None]
)
def test_what_allgather_returns_is_checked(change):
    layer = SyncBatchNorm(2, comm=Own(change))
    with pytest.raises(TypeError, match=r"communicator.allgather must return float64 of shape \(ranks, 6\); got"):
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
