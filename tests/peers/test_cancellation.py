"""test_cancellation: what is recorded of torch's errors, for the example that draws them, is what torch does."""

import json

import numpy as np
import pytest
from effects import imported

pytest.importorskip("torch")
cancellation = imported("cancellation")


@pytest.fixture(params=[1, 2])
def threads(request):
    """Errors depend on the number of threads, as they do on what the CPU can do: by up to a factor of 3."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_recorded_errors_of_torch_are_of_the_size_of_live_ones(threads):
    recorded, live = json.loads(cancellation.RECORDED.read_text())["errors"], cancellation.torch_errors()["errors"]
    assert list(recorded) == list(live)
    offsets = np.log10(cancellation.OFFSETS)
    for layout in live:
        ours, theirs = np.log10(recorded[layout]), np.log10(live[layout])
        assert np.abs(ours - theirs).max() < np.log10(4), layout
        assert abs(np.median(ours - theirs)) < np.log10(2.5), layout
        grows = np.array(recorded[layout]) < 0.3  # elsewhere no digit is left to lose
        slope, live_slope = (np.polyfit(offsets[grows], values[grows], 1)[0] for values in (ours, theirs))
        assert min(slope, live_slope) > 0.7 and live_slope == pytest.approx(slope, abs=0.2), layout
