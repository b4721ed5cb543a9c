"""states: when two states are equal, and what must hold of a layer that was saved."""

import os

import numpy as np

import cbn


def assert_equal_states(a, b):
    assert list(a) == list(b)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])
        assert a[key].dtype == b[key].dtype


def assert_file_round_trip(layer, path):
    """Saved, replaced and loaded it is the same layer, and nothing else is left in the folder."""
    layer.save(path)
    layer.save(str(path))  # replaces it
    loaded = cbn.BatchNorm.load(path)
    assert type(loaded) is type(layer) and repr(loaded) == repr(layer)
    assert_equal_states(loaded.state_dict(), layer.state_dict())
    assert loaded.state_dict()._metadata == layer.state_dict()._metadata
    assert os.listdir(path.parent) == [path.name]


def damaged(whole):
    """Copies of a file's bytes, each with one bit changed, some cut off."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(whole)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        yield bad[: rng.integers(len(bad))] if rng.integers(4) == 0 else bad
