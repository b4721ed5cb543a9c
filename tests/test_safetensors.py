"""test_safetensors: layers in .safetensors files: round trips, what other programs read of them, harmful files."""

import json
import os
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from states import assert_file_round_trip, damaged

import cbn

OPTIONS = [
    {},
    {"affine": False, "dtype": np.float64},
    {"bias": False, "dtype": np.float16, "convention": "keras"},
    {"dtype": ml_dtypes.bfloat16, "activation": "relu"},
    {"track_running_stats": False, "axis": -1},
    {"renorm": True, "renorm_clipping": {"rmax": 3.0}},
]


@pytest.fixture
def good(tmp_path):
    """Arrays, metadata and the path of a file to replace."""
    layer = cbn.BatchNorm2d(3)
    layer(np.random.default_rng(0).random((4, 3, 5, 5), dtype=np.float32))
    path = tmp_path / "layer.safetensors"
    layer.save(path)
    with safe_open(path, framework="numpy") as file:
        meta = json.loads(file.metadata()["cbn"])
    return load_file(path), meta, path


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("layer_class", [cbn.BatchNorm, cbn.BatchNorm1d])
def test_round_trip(tmp_path, options, layer_class):
    assert_file_round_trip(layer_class(5, **options), tmp_path / "layer.safetensors")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_parameters_in_another_byte_order(tmp_path, suffix):
    layer = cbn.BatchNorm(3)
    layer.weight = np.arange(3, dtype=np.dtype(np.float32).newbyteorder())
    layer.save(tmp_path / f"layer{suffix}")
    np.testing.assert_array_equal(cbn.BatchNorm.load(tmp_path / f"layer{suffix}").weight, [0, 1, 2])


def test_other_programs_read_torchs_keys(good):
    arrays, meta, _ = good
    assert sorted(arrays) == ["bias", "num_batches_tracked", "running_mean", "running_var", "weight"]
    assert meta["count"] == 100 and meta["convention"]["name"] == "torch"


@pytest.mark.parametrize(
    "change",
    [
        {"weight": np.ones(4, np.float32)},
        {"weight": np.ones((3, 1), np.float32)},
        {"weight": np.ones(3, bool)},
        {"running_var": np.float32([1, -1, 1])},
        {"num_batches_tracked": np.array(3, np.float32)},
        {"more": np.ones(3, np.float32)},
        {"bias": None},
    ],
)
def test_other_arrays_are_refused(good, change):
    arrays, meta, path = good
    arrays = {name: a for name, a in (arrays | change).items() if a is not None}
    save_file(arrays, path, {"cbn": json.dumps(meta)})
    with pytest.raises(ValueError, match=r"^path must be a file that BatchNorm.save wrote; got 'layer.safetensors': "):
        cbn.BatchNorm.load(path)


@pytest.mark.parametrize(
    "change", [{"num_features": 2**50}, {"class": "State"}, {"eps": "x"}, {"count": -1}, {"format": "other"}]
)
def test_other_metadata_are_refused(good, change):
    arrays, meta, path = good
    save_file(arrays, path, {"cbn": json.dumps(meta | change)})
    with pytest.raises(ValueError, match=r"path must be a file that BatchNorm.save wrote"):
        cbn.BatchNorm.load(path)


def test_files_of_others_say_where_to_go(good):
    arrays, _, path = good
    save_file(arrays, path)
    with pytest.raises(ValueError, match=r"cbn\.interop\.torch\.from_state_dict takes states of torch"):
        cbn.BatchNorm.load(path)


def test_every_damaged_byte_is_refused_or_harmless(good):
    path = good[2]
    for bad in damaged(path.read_bytes()):
        path.write_bytes(bad)
        try:
            loaded = cbn.BatchNorm.load(path)
        except ValueError:
            continue
        assert loaded.num_features == 3


def test_without_the_library_files_are_read_only(good, monkeypatch):
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    layer = cbn.BatchNorm.load(good[2])
    with pytest.raises(ImportError, match=r"safetensors must be installed \(pip install 'cbn\[safetensors\]'\)"):
        layer.save(good[2])
    assert os.listdir(good[2].parent) == [good[2].name]


def test_missing_file_and_rights(tmp_path):
    with pytest.raises(FileNotFoundError):
        cbn.BatchNorm.load(tmp_path / "none.safetensors")
    before = os.umask(0o027)
    try:
        cbn.BatchNorm(3).save(tmp_path / "layer.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "layer.safetensors").stat().st_mode & 0o777 == 0o640
