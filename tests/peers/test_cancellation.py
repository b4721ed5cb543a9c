"""test_cancellation: what is recorded of torch's errors, for the example that draws them, is what torch does."""

import json
from pathlib import Path

import numpy as np
import pytest

for library in ("torch", "sklearn", "matplotlib", "rich"):
    pytest.importorskip(library)

EFFECTS = Path(__file__).parents[2] / "examples" / "effects"


@pytest.fixture
def cancellation(monkeypatch):
    monkeypatch.syspath_prepend(str(EFFECTS))
    import cancellation

    return cancellation


def test_recorded_errors_of_torch_are_of_the_size_of_live_ones(cancellation):
    recorded, live = json.loads(cancellation.RECORDED.read_text())["errors"], cancellation.torch_errors()["errors"]
    assert list(recorded) == list(live)
    for layout in live:  # they depend on the number of threads, and on what the CPU can do
        assert np.abs(np.log10(recorded[layout]) - np.log10(live[layout])).max() < 1, layout
