"""test_synchronized: layers of several ranks, threads here: what they compute, and how they fail together."""

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
