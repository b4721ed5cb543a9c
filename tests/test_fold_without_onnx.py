"""test_fold_without_onnx: what `python -m cbn fold` says where its libraries are missing."""

import sys

import pytest

from cbn import cli
from cbn.interop.fold_onnx import fold


def test_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    assert cli.main(["fold", "model.onnx", str(tmp_path / "out.onnx")]) == 2
    missing = "cbn: onnx must be installed (pip install 'cbn[onnx]'); got no such module\n"
    assert capsys.readouterr().err == missing
    with pytest.raises(ImportError, match=r"onnx_ir must be installed \(pip install 'cbn\[onnx\]'\)"):
        fold(None)
