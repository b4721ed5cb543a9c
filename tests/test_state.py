"""test_state: state dicts and saved files: round trips, refusals, and files that mean harm."""

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from states import assert_equal_states, assert_file_round_trip, damaged

import cbn


@pytest.fixture
def layer():
    layer = cbn.BatchNorm2d(3, eps=1e-3, momentum=None)
    layer.weight[...] = [1, 2, 3]
    layer(np.random.default_rng(0).random((4, 3, 5, 5), dtype=np.float32))
    return layer


def test_keys_order_and_version(layer):
    state = layer.state_dict()
    assert list(state) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert state._metadata[""]["version"] == 2
    assert state["num_batches_tracked"].shape == () and state["num_batches_tracked"].dtype == np.int64


def test_round_trip_copies_both_ways(layer):
    state = layer.state_dict()
    other = cbn.BatchNorm(3, eps=1e-3)
    weight = other.weight
    assert other.load_state_dict(state) == ([], [])
    assert_equal_states(other.state_dict(), state)
    assert other.weight is weight
    state["weight"][...] = 99
    assert not (other.weight == 99).any() and not (layer.weight == 99).any()


def test_plain_and_old_dicts(layer):
    state = dict(layer.state_dict())
    other = cbn.BatchNorm(3)  # a plain dict says nothing of eps
    other.load_state_dict(state)
    assert_equal_states(other.state_dict(), layer.state_dict())
    del state["num_batches_tracked"]
    assert other.load_state_dict(state) == ([], [])
    assert other.num_batches_tracked == 0
    old = OrderedDict(state)
    old._metadata = {"": {"version": 1}}
    other.load_state_dict(old)
    old._metadata = {"": {"version": 2}}
    with pytest.raises(ValueError, match=r"state must have exactly the keys .*; got no num_batches_tracked"):
        other.load_state_dict(old)


def test_not_strict(layer):
    state = {"weight": np.float32([7, 8, 9]), "extra": 1}
    with pytest.raises(ValueError, match=r"got no bias, no running_mean, no running_var, .*also extra"):
        layer.load_state_dict(state)
    result = layer.load_state_dict(state, strict=False)
    assert result.missing_keys == ["bias", "running_mean", "running_var", "num_batches_tracked"]
    assert result.unexpected_keys == ["extra"] and layer.num_batches_tracked == 1
    np.testing.assert_array_equal(layer.weight, [7, 8, 9])


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("weight", np.ones(4), ValueError, r"weight must have shape \(3,\); got \(4,\)"),
        ("weight", np.ones((3, 1)), ValueError, r"weight must have shape \(3,\); got \(3, 1\)"),
        ("weight", np.array([None] * 3), TypeError, "weight must be an array of real numbers; got object"),
        ("weight", np.ones(3, complex), TypeError, "weight must be an array of real numbers; got complex128"),
        ("bias", np.ma.masked_array(np.ones(3)), TypeError, "bias must be an array without a mask; got a masked array"),
        ("running_var", np.array([1, -1, 1.0]), ValueError, "running_var must be >= 0; got -1.0"),
        ("num_batches_tracked", np.array(-1), ValueError, "num_batches_tracked must be >= 0; got -1"),
        ("num_batches_tracked", np.array(1.5), TypeError, "num_batches_tracked must be an integer; got float64"),
        ("num_batches_tracked", np.array([1]), ValueError, r"num_batches_tracked must have shape \(\); got \(1,\)"),
    ],
)
def test_refused_values_change_nothing(layer, key, value, error, message):
    before = layer.state_dict()
    with pytest.raises(error, match=message):
        layer.load_state_dict({**before, "bias": np.full(3, 5.0), key: value})
    assert_equal_states(layer.state_dict(), before)


def test_not_a_state(layer):
    with pytest.raises(TypeError, match="state must be a dict of arrays; got int"):
        layer.load_state_dict(5)


def test_value_too_large_for_the_layer(layer):
    with pytest.raises(ValueError, match=r"running_var must fit float32; got 1e\+300"):
        layer.load_state_dict({**layer.state_dict(), "running_var": np.array([1, 1e300, 1])})
    layer.load_state_dict({**layer.state_dict(), "running_var": np.array([1, np.inf, np.nan])})
    with pytest.raises(ValueError, match=r"num_batches_tracked must be at most 2\*\*62; got 9223372036854775813"):
        layer.load_state_dict({**layer.state_dict(), "num_batches_tracked": np.uint64(2**63 + 5)})


class Derived(cbn.BatchNorm2d):
    """A user's own class."""


def test_derived_classes(tmp_path):
    Derived(3).save(tmp_path / "layer.npz")
    assert type(Derived.load(tmp_path / "layer.npz")) is Derived
    assert type(cbn.BatchNorm.load(tmp_path / "layer.npz")) is cbn.BatchNorm2d


def test_file_mode_and_missing_folder(layer, tmp_path):
    before = os.umask(0o027)
    try:
        layer.save(tmp_path / "layer.npz")
    finally:
        os.umask(before)
    assert (tmp_path / "layer.npz").stat().st_mode & 0o777 == 0o640
    with pytest.raises(FileNotFoundError, match=r"none/layer\.npz"):
        layer.save(tmp_path / "none" / "layer.npz")


def test_contradicting_eps(layer):
    with pytest.raises(ValueError, match=r"state must come from a layer with eps 1e-05; got 0.001"):
        cbn.BatchNorm(3).load_state_dict(layer.state_dict())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"affine": False},
        {"bias": False, "dtype": np.float64},
        {"track_running_stats": False, "axis": -1},
        {"eps": 0.0, "momentum": 0.25},
    ],
)
@pytest.mark.parametrize("layer_class", [cbn.BatchNorm, cbn.BatchNorm1d, cbn.BatchNorm3d])
def test_file_round_trip(tmp_path, options, layer_class):
    assert_file_round_trip(layer_class(5, **options), tmp_path / "layer.npz")


def test_file_names_and_classes(layer, tmp_path):
    with pytest.raises(ValueError, match=r"path must end in .npz or .safetensors; got 'layer.pt'"):
        layer.save(tmp_path / "layer.pt")
    layer.save(tmp_path / "layer.npz")
    assert type(cbn.BatchNorm2d.load(tmp_path / "layer.npz")) is cbn.BatchNorm2d
    with pytest.raises(ValueError, match="class must be BatchNorm1d; got BatchNorm2d"):
        cbn.BatchNorm1d.load(tmp_path / "layer.npz")
    with pytest.raises(FileNotFoundError):
        cbn.BatchNorm.load(tmp_path / "none.npz")


def test_a_failed_save_leaves_the_old_file(layer, tmp_path, monkeypatch):
    path = tmp_path / "layer.npz"
    layer.save(path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        layer.save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["layer.npz"]


def members(layer, tmp_path):
    layer.save(tmp_path / "good.npz")
    with zipfile.ZipFile(tmp_path / "good.npz") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), version=(1, 0), allow_pickle=True)
    return buffer.getvalue()


class Bomb:
    """Unpickling one of these leaves a trace."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def changed_meta(files, **changes):
    meta = json.loads(np.load(io.BytesIO(files["meta.npy"])).tobytes())
    return npy(np.frombuffer(json.dumps({**meta, **changes}).encode(), np.uint8))


HARMFUL = {
    "pickle": lambda files, trace: {"weight.npy": npy(np.array([Bomb(trace)] * 3, dtype=object))},
    "pickle instead of npy": lambda files, trace: {"weight.npy": pickle.dumps(Bomb(trace))},
    "shape of a terabyte": lambda files, trace: {
        "weight.npy": npy(np.ones(3, np.float32)).replace(b"(3,)", b"(3333333333333,)").replace(b" " * 13, b"", 1)
    },
    "other shape": lambda files, trace: {"weight.npy": npy(np.ones(4, np.float32))},
    "truncated": lambda files, trace: {"weight.npy": files["weight.npy"][:-2]},
    "trailing": lambda files, trace: {"weight.npy": files["weight.npy"] + b"xx"},
    "no header": lambda files, trace: {"weight.npy": b""},
    "complex": lambda files, trace: {"weight.npy": npy(np.ones(3, complex))},
    "unknown member": lambda files, trace: {"more.npy": npy(np.ones(3, np.float32))},
    "no meta": lambda files, trace: {"meta.npy": None},
    "no weight": lambda files, trace: {"weight.npy": None},
    "meta not json": lambda files, trace: {"meta.npy": npy(np.frombuffer(b"\xff{", np.uint8))},
    "meta a list": lambda files, trace: {"meta.npy": npy(np.frombuffer(b"[1]", np.uint8))},
    "meta too long": lambda files, trace: {"meta.npy": npy(np.zeros(10**6, np.uint8))},
    "format": lambda files, trace: {"meta.npy": changed_meta(files, format="other")},
    "version": lambda files, trace: {"meta.npy": changed_meta(files, version=2)},
    "class": lambda files, trace: {"meta.npy": changed_meta(files, **{"class": "__builtins__"})},
    "huge num_features": lambda files, trace: {"meta.npy": changed_meta(files, num_features=2**50)},
    "large num_features": lambda files, trace: {"meta.npy": changed_meta(files, num_features=2**39)},
    "negative eps": lambda files, trace: {"meta.npy": changed_meta(files, eps=-1)},
    "text as eps": lambda files, trace: {"meta.npy": changed_meta(files, eps="x")},
    "dtype": lambda files, trace: {"meta.npy": changed_meta(files, dtype="object")},
    "dtype nonsense": lambda files, trace: {"meta.npy": changed_meta(files, dtype=[1, {}])},
    "negative variance": lambda files, trace: {"running_var.npy": npy(np.float32([1, -1, 1]))},
}


@pytest.mark.parametrize("change", HARMFUL.values(), ids=HARMFUL)
def test_harmful_files(layer, tmp_path, change):
    trace = tmp_path / "trace"
    files = members(layer, tmp_path)
    files |= change(files, trace)
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        for name, content in files.items():
            if content is not None:
                archive.writestr(name, content)
    with pytest.raises(ValueError, match=r"^path must be a file that BatchNorm.save wrote; got 'bad.npz'"):
        cbn.BatchNorm.load(tmp_path / "bad.npz")
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(100)])
def test_not_an_archive(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"path must be a file that BatchNorm.save wrote"):
        cbn.BatchNorm.load(tmp_path / "bad.npz")


def test_every_damaged_byte_is_refused_or_harmless(layer, tmp_path):
    layer.save(tmp_path / "good.npz")
    for bad in damaged((tmp_path / "good.npz").read_bytes()):
        (tmp_path / "bad.npz").write_bytes(bad)
        try:
            loaded = cbn.BatchNorm.load(tmp_path / "bad.npz")
        except ValueError:
            continue
        assert loaded.num_features == 3
