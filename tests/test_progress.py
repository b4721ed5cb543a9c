"""test_progress: what recompute_statistics shows of its progress, and where it shows nothing."""

import io
import sys

import numpy as np
import pytest

import cbn
from cbn import progress

LAYER = cbn.BatchNorm(4)
BATCHES = [np.random.default_rng(0).standard_normal((size, 4, 3, 2), np.float32) for size in (7, 20, 3, 20)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(params=["tqdm", None])
def library(request, monkeypatch):
    """With tqdm or without."""
    if request.param:
        pytest.importorskip(request.param)
    else:
        monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
    return request.param


@pytest.mark.parametrize("sized", [True, False])
def test_progress_on_a_terminal(monkeypatch, library, sized):
    monkeypatch.setattr(sys, "stderr", Terminal())
    cbn.recompute_statistics(
        LAYER, BATCHES if sized else iter(zip(BATCHES, strict=True)), None if sized else lambda b: LAYER(*b)
    )
    text = sys.stderr.getvalue()
    assert "statistics: " in text and (text.endswith("\r\033[K") or text.endswith("\r"))
    assert ("/4" in text or "batch 3 of 4" in text) if sized else "of" not in text
    assert library or "batch 3" in text


class Unsized:
    """A loader whose length is no concern of ours."""

    def __len__(self):
        raise NotImplementedError

    def __iter__(self):
        return iter(BATCHES)


def test_a_length_that_raises(monkeypatch, library):
    monkeypatch.setattr(sys, "stderr", Terminal())
    layer = cbn.BatchNorm(4)
    cbn.recompute_statistics(layer, Unsized())
    assert layer.num_batches_tracked == 4
    text = sys.stderr.getvalue()
    assert "statistics: " in text and "/4" not in text and "of 4" not in text


@pytest.mark.parametrize("wanted", [True, False])
def test_no_progress_elsewhere(monkeypatch, capsys, wanted):
    cbn.recompute_statistics(LAYER, BATCHES, progress=wanted)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", None)
    cbn.recompute_statistics(LAYER, BATCHES, progress=wanted)
    monkeypatch.setattr(sys, "stderr", Terminal())
    cbn.recompute_statistics(LAYER, BATCHES, progress=False)
    assert sys.stderr.getvalue() == ""
