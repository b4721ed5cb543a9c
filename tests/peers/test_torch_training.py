"""test_torch_training: accelerated networks train as torch's do: eagerly, compiled, and in several processes."""

import itertools
import shutil

import pytest

torch = pytest.importorskip("torch")
own = pytest.importorskip("cbn.interop.torch")
nn, F = torch.nn, torch.nn.functional


class Block(nn.Module):
    """The basic block of ResNet-18."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        shortcut = nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Identity() if stride == 1 else nn.Sequential(*shortcut)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


RESNET18 = (8, 8, 8, 16, 16, 32, 32, 64, 64)  # an eighth of its widths


def network(widths=RESNET18, dtype=torch.float32, momentum=0.1):
    """ResNet-18 but for its widths and its stem, or a part of it."""
    torch.manual_seed(0)
    blocks = [Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
    stem = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0], momentum=momentum), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10), nn.BatchNorm1d(10)]
    return nn.Sequential(*stem, *blocks, *head).to(dtype)


def data(steps, dtype, layout=torch.contiguous_format, samples=8):
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        x = torch.randn(samples + step % 3, 3, 16, 16, generator=generator).to(dtype).contiguous(memory_format=layout)
        yield x, torch.randint(0, 10, (len(x),), generator=generator)


def losses(model, batches, call=None):
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for x, labels in batches:
        loss = F.cross_entropy((call or model)(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def assert_same_state(ours, theirs, tolerance):
    for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=key)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_same_losses(layout, momentum):
    """In float64, where both are exact enough for 20 steps not to part them."""
    ours, theirs = (network(dtype=torch.float64, momentum=momentum) for _ in range(2))
    own.accelerate(ours)
    of_ours = list(losses(ours, data(20, torch.float64, layout)))
    of_theirs = list(losses(theirs, data(20, torch.float64, layout)))
    assert of_ours == pytest.approx(of_theirs, rel=1e-7) and of_ours[0] != of_ours[-1]
    assert_same_state(ours, theirs, 1e-6)


def test_the_same_losses_in_float32():
    """As near to float64's losses as torch's own are, within a factor."""
    exact = list(losses(network(dtype=torch.float64), data(10, torch.float64)))
    ours = list(losses(own.accelerate(network()), data(10, torch.float32)))
    theirs = list(losses(network(), data(10, torch.float32)))
    error, torchs = (max(abs(a - b) for a, b in zip(some, exact, strict=True)) for some in (ours, theirs))
    assert error <= 10 * max(torchs, 1e-6)


@pytest.mark.parametrize(
    ("backend", "layout"),
    [
        ("eager", torch.contiguous_format),
        ("aot_eager", torch.contiguous_format),
        ("aot_eager", torch.channels_last),
        ("inductor", torch.channels_last),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own
def test_compiled(backend, layout):
    """In one graph, with batches of several sizes, for training and evaluation."""
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("inductor needs a C++ compiler")
    torch.compiler.reset()
    ours, theirs = (network((4, 4, 8), torch.float64) for _ in range(2))
    own.accelerate(ours)
    compiled = torch.compile(ours, backend=backend, fullgraph=True)
    batches = list(data(4, torch.float64, layout))
    of_ours = list(losses(ours, batches, compiled))
    assert of_ours == pytest.approx(list(losses(theirs, batches)), rel=1e-7)
    assert_same_state(ours, theirs, 1e-7)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(compiled(batches[0][0]), theirs(batches[0][0]), rtol=1e-7, atol=1e-7)


OPERATORS = {
    "batch_norm_forward": lambda x, c: (x, c, None, 1e-5, 4),
    "batch_norm_inference": lambda x, c: (x, c.detach(), c.detach(), c, c, 1e-5, 4),
    "batch_norm_backward": lambda x, c: (x, x, c.double().detach(), c.double().detach(), c, True),
    "batch_norm_double_backward": lambda x, c: (
        [t.detach() for t in (x, c, c, x, x, c.double(), c.double(), c)] + [False]
    ),
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
    model = network((4, 4, 8), torch.float64)
    model = nn.parallel.DistributedDataParallel(own.accelerate(model) if accelerated else model)
    halves = [(x[rank::2], labels[rank::2]) for x, labels in data(4, torch.float64)]
    of_rank = list(losses(model, halves))
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
