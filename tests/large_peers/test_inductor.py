"""test_inductor: an accelerated network under torch.compile's default backend, which needs a C++ compiler."""

import pytest

torch = pytest.importorskip("torch")
own = pytest.importorskip("cbn.interop.torch")
networks = pytest.importorskip("torch_networks")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_inductor(layout):
    torch.compiler.reset()
    ours, theirs = (networks.network((4, 4, 8), torch.float64) for _ in range(2))
    compiled = torch.compile(own.accelerate(ours), fullgraph=True)
    batches = list(networks.data(4, torch.float64, layout))
    of_ours = list(networks.losses(ours, batches, compiled))
    assert of_ours == pytest.approx(list(networks.losses(theirs, batches)), rel=1e-7)
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7, msg=key)
    ours.eval(), theirs.eval()
    x = batches[0][0]
    torch.testing.assert_close(compiled(x), theirs(x), rtol=1e-7, atol=1e-7)
