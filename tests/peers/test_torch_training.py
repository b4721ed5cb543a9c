"""test_torch_training: accelerated networks train as torch's do: eagerly, compiled, and in several processes."""

import pytest

torch = pytest.importorskip("torch")
own = pytest.importorskip("cbn.interop.torch")
networks = pytest.importorskip("torch_networks")


def assert_same_state(ours, theirs, tolerance):
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=key)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_same_losses(layout, momentum):
    """In float64, where both are exact enough for 20 steps not to part them."""
    ours, theirs = (networks.network(dtype=torch.float64, momentum=momentum) for _ in range(2))
    own.accelerate(ours)
    of_ours = list(networks.losses(ours, networks.data(20, torch.float64, layout)))
    of_theirs = list(networks.losses(theirs, networks.data(20, torch.float64, layout)))
    assert of_ours == pytest.approx(of_theirs, rel=1e-7) and of_ours[0] != of_ours[-1]
    assert_same_state(ours, theirs, 1e-6)


def test_the_same_losses_in_float32():
    """As near to float64's losses as torch's own are, within a factor."""
    exact = list(networks.losses(networks.network(dtype=torch.float64), networks.data(10, torch.float64)))
    ours = list(networks.losses(own.accelerate(networks.network()), networks.data(10, torch.float32)))
    theirs = list(networks.losses(networks.network(), networks.data(10, torch.float32)))
    error, torchs = (max(abs(a - b) for a, b in zip(some, exact, strict=True)) for some in (ours, theirs))
    assert error <= 10 * max(torchs, 1e-6)


@pytest.mark.parametrize(
    ("backend", "layout"),
    [
        ("eager", torch.contiguous_format),
        ("aot_eager", torch.contiguous_format),
        ("aot_eager", torch.channels_last),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own
def test_compiled(backend, layout):
    """In one graph, with batches of several sizes, for training and evaluation."""
    torch.compiler.reset()
    ours, theirs = (networks.network((4, 4, 8), torch.float64) for _ in range(2))
    own.accelerate(ours)
    compiled = torch.compile(ours, backend=backend, fullgraph=True)
    batches = list(networks.data(4, torch.float64, layout))
    of_ours = list(networks.losses(ours, batches, compiled))
    assert of_ours == pytest.approx(list(networks.losses(theirs, batches)), rel=1e-7)
    assert_same_state(ours, theirs, 1e-7)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(compiled(batches[0][0]), theirs(batches[0][0]), rtol=1e-7, atol=1e-7)


OPERATORS = {
    "batch_norm_forward": lambda x, c: (x, c, None, 1e-5),
    "batch_norm_inference": lambda x, c: (x, c.detach(), c.detach(), c, c, 1e-5),
    "batch_norm_backward": lambda x, c: (x, x, c.double().detach(), c.double().detach(), c),
    "batch_norm_double_backward": lambda x, c: [t.detach() for t in (x, c, c, x, x, c.double(), c.double(), c)],
    "batch_norm_fixed_backward": lambda x, c: (x, x, c.detach(), c.detach(), c, 1e-5, True),
    "update_running": lambda x, c: (
        *(c.detach().clone() for _ in "mv"),
        torch.tensor(3),
        *[c.double().detach()] * 2,
        7,
        None,
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name, layout, dtype):
    """Schema, fake tensors, autograd and symbolic shapes, by torch's own checks."""
    x = torch.randn(3, 4, 2, 5, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    arguments = OPERATORS[name](x, torch.rand(4, dtype=dtype, requires_grad=True))
    results = torch.library.opcheck(getattr(torch.ops.cbn, name).default, tuple(arguments))
    assert set(results.values()) == {"SUCCESS"}


def work(rank, folder, accelerated, results):
    """One process of two: its half of each batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = networks.network((4, 4, 8), torch.float64)
    model = torch.nn.parallel.DistributedDataParallel(own.accelerate(model) if accelerated else model)
    halves = [(x[rank::2], labels[rank::2]) for x, labels in networks.data(4, torch.float64)]
    of_rank = list(networks.losses(model, halves))
    results.put((rank, of_rank, {key: value.numpy() for key, value in model.state_dict().items()}))
    torch.distributed.destroy_process_group()


def in_two_processes(folder, accelerated):
    folder.mkdir()
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    processes = [context.Process(target=work, args=(rank, folder, accelerated, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = sorted((results.get() for _ in processes), key=lambda result: result[0])
    for process in processes:
        process.join()
    return found


def test_distributed_data_parallel(tmp_path):
    """Two processes on gloo: gradients averaged, running statistics sent from the first, as with torch's own."""
    pairs = zip(in_two_processes(tmp_path / "cbn", True), in_two_processes(tmp_path / "torch", False), strict=True)
    for (_, ours, own_state), (_, theirs, state) in pairs:
        assert ours == pytest.approx(theirs, rel=1e-7)
        for key, value in state.items():
            assert own_state[key] == pytest.approx(value, rel=1e-6, abs=1e-8), key
