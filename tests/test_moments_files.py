"""test_moments_files: moments in .npz and .safetensors files: round trips, other files, damaged files."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file
from states import damaged

import cbn

SUFFIXES = (".npz", ".safetensors")
MOMENTS = [
    cbn.Moments(12, [1.0, np.nan, 3.0], [4.0, 5.0, np.inf]),
    cbn.Moments(12.5, [0.1], [1e-300]),
    cbn.Moments(2**62 + 1, [0.1], [0.0]),
    cbn.Moments([3, 0], [1.0, 0.0], [2.0, 0.0]),
    cbn.Moments([3.5, 0.25], [1.0, 0.0], [2.0, 0.0]),
    cbn.Moments(0, [], []),
]


def written(path, arrays, meta):
    """A file as the library might have written it."""
    if path.suffix == ".npz":
        np.savez(path, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
    else:
        save_file(arrays, path, {"cbn": json.dumps(meta)})


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("moments", MOMENTS, ids=lambda m: str(m.count))
def test_round_trip(tmp_path, moments, suffix):
    path = tmp_path / f"moments{suffix}"
    moments.save(path)
    moments.save(str(path))  # replaces it
    loaded = cbn.Moments.load(path)
    assert type(loaded.count) is type(moments.count) and repr(loaded) == repr(moments)
    assert np.asarray(loaded.count).dtype == np.asarray(moments.count).dtype
    assert os.listdir(tmp_path) == [path.name]


def test_other_programs_read_the_arrays(tmp_path):
    cbn.Moments([3, 0], [1.0, 0.0], [2.0, 0.0]).save(tmp_path / "moments.npz")
    with np.load(tmp_path / "moments.npz", allow_pickle=False) as archive:
        assert sorted(archive.files) == ["count", "m2", "mean", "meta"] and archive["count"].tolist() == [3, 0]


class Own(cbn.Moments):
    """Of a user."""


def test_a_subclass_loads_as_itself(tmp_path):
    Own(3, [1.0], [2.0]).save(tmp_path / "moments.npz")
    assert type(Own.load(tmp_path / "moments.npz")) is Own
    assert type(cbn.Moments.load(tmp_path / "moments.npz")) is cbn.Moments


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_layers_and_moments_are_not_taken_for_each_other(tmp_path, suffix):
    layer, moments = tmp_path / f"layer{suffix}", tmp_path / f"moments{suffix}"
    cbn.BatchNorm(3).save(layer)
    MOMENTS[0].save(moments)
    with pytest.raises(ValueError, match=r"a file that Moments.save wrote; got 'layer.*': format must be cbn.Moments"):
        cbn.Moments.load(layer)
    with pytest.raises(ValueError, match=r"a file that BatchNorm.save wrote; got 'moments.*'cbn.Moments' version 1"):
        cbn.BatchNorm.load(moments)


META = {"format": "cbn.Moments", "version": 1, "channels": 2, "count": 5}
ARRAYS = {"mean": np.ones(2), "m2": np.ones(2)}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("arrays", "meta"),
    [
        ({"m2": np.array([1.0, -1.0])}, {}),
        ({"m2": np.ones(3)}, {}),
        ({"m2": np.ones((2, 1))}, {}),
        ({"m2": np.ones(2, bool)}, {}),
        ({"more": np.ones(2)}, {}),
        ({"count": np.ones(2)}, {}),
        ({}, {"count": None}),
        ({"count": -np.ones(2)}, {"count": None}),
        ({"count": np.full(2, 2**63, np.uint64)}, {"count": None}),
        ({}, {"count": 2**63}),
        ({}, {"count": -1}),
        ({}, {"count": "5"}),
        ({}, {"channels": 2**50}),
        ({}, {"channels": "2"}),
        ({}, {"version": 2}),
        ({}, {"format": None}),
    ],
)
def test_other_contents_are_refused(tmp_path, arrays, meta, suffix):
    path = tmp_path / f"moments{suffix}"
    written(path, ARRAYS, META)
    assert cbn.Moments.load(path).count == 5
    written(path, ARRAYS | arrays, META | meta)
    with pytest.raises(ValueError, match=r"^path must be a file that Moments.save wrote; got 'moments"):
        cbn.Moments.load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_damaged_byte_is_refused_or_harmless(tmp_path, suffix):
    path = tmp_path / f"moments{suffix}"
    cbn.Moments([3, 4], [1.0, 2.0], [2.0, 3.0]).save(path)
    for bad in damaged(path.read_bytes()):
        path.write_bytes(bad)
        try:
            loaded = cbn.Moments.load(path)
        except ValueError:
            continue
        assert loaded.mean.shape == (2,)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_cannot_be_loaded_is_not_saved(tmp_path, suffix):
    """Neither is a wrong path, and an old file stays."""
    path, moments = tmp_path / f"moments{suffix}", cbn.Moments(5, [1.0], [2.0])
    moments.save(path)
    before = path.read_bytes()
    moments.m2 = np.array([-1.0])
    with pytest.raises(ValueError, match="m2 must be >= 0 in every channel"):
        moments.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    moments.m2 = np.array([2.0])
    with pytest.raises(ValueError, match=r"path must end in .npz or .safetensors; got 'moments.npy'"):
        moments.save(tmp_path / "moments.npy")
    for missing in (tmp_path / "none" / path.name, tmp_path / f"none{suffix}"):
        with pytest.raises(FileNotFoundError):
            cbn.Moments.load(missing)
    with pytest.raises(FileNotFoundError):
        moments.save(tmp_path / "none" / path.name)
