"""test_corpus: what each version of cbn wrote is loaded by this one, to the bit."""

import importlib.util
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import cbn

FOLDER = Path(__file__).parent / "corpus"
FILES = sorted(path for path in FOLDER.glob("*/*") if path.suffix in (".npz", ".safetensors"))

_spec = importlib.util.spec_from_file_location("record", FOLDER / "record.py")
record = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(record)


def array(entry):
    dtype = ml_dtypes.bfloat16 if entry["dtype"] == "bfloat16" else entry["dtype"]
    return np.frombuffer(bytes.fromhex(entry["bits"]), dtype).reshape(entry["shape"])


def hold(path):
    expected = json.loads((path.parent / "expected.json").read_text())[path.name]
    loaded = getattr(cbn, expected["class"]).load(path)
    assert type(loaded).__name__ == expected["class"]
    if expected["class"] == "Moments":
        state = {name: np.asarray(value) for name, value in loaded.to_dict().items()}
    else:
        state = loaded.state_dict()
        now = record.described(loaded.eval())
        for name, value in expected["options"].items():  # this version may have more
            assert json.loads(json.dumps(now["options"][name])) == value, name
        y, wanted = loaded(record.batch(loaded, 3)), array(expected["y"])
        assert y.dtype == wanted.dtype
        tolerance = 8 * float(ml_dtypes.finfo(y.dtype).eps)
        np.testing.assert_allclose(y.astype(float), wanted.astype(float), rtol=tolerance, atol=tolerance)
    assert list(state) == list(expected["state"])
    for name, value in state.items():
        wanted = array(expected["state"][name])
        assert value.dtype == wanted.dtype and value.shape == wanted.shape and value.tobytes() == wanted.tobytes(), name


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}-{path.name}" for path in FILES])
def test_loaded(path):
    hold(path)


def test_each_version_is_whole():
    """What a version promised to be there is, and nothing else; this version is among them."""
    folders = [path for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert cbn.__version__ in {folder.name for folder in folders}
    for folder in folders:
        expected = json.loads((folder / "expected.json").read_text())
        assert sorted([*expected, "expected.json"]) == sorted(path.name for path in folder.iterdir())


def test_what_this_version_writes_it_loads(tmp_path):
    record.record(tmp_path / "new")
    for path in (tmp_path / "new").glob("*-*"):
        hold(path)


@pytest.mark.parametrize("path", FILES[::5], ids=str)
def test_loaded_by_the_other_classes_it_is_refused(path):
    expected = json.loads((path.parent / "expected.json").read_text())[path.name]
    other = cbn.BatchNorm if expected["class"] == "Moments" else cbn.Moments
    with pytest.raises(ValueError, match=f"path must be a file that {other.__name__}.save wrote; got"):
        other.load(path)
