"""test_torch_sync: cbn.interop.torch.SyncBatchNorm on several ranks, against torch's BatchNorm with the whole batch.

Real processes with gloo run torch_ranks.py; what needs none has threads for its ranks.
"""

import copy
import io
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cbn.interop.communicators import ThreadCommunicator

torch = pytest.importorskip("torch")
own = pytest.importorskip("cbn.interop.torch")
nn = torch.nn

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "pytorch-on-cpu.md"
ON_LOCALHOST = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
SHAPES = [(7, 3), (5, 3, 4), (5, 8, 3, 4), (9, 64, 24, 24), (4, 3, 2, 3, 4)]
DTYPES = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "sliced": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
}


def on_ranks(size, function):
    """What the function returns on each rank, a thread; it takes the communicator."""
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(function, ThreadCommunicator.group(size, timeout=20)))


def alone():
    return ThreadCommunicator.group(1, timeout=20)[0]


def close(ours, theirs, tolerance):
    ours, theirs = ours.detach().double(), theirs.detach().double()
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * max(1, float(theirs.abs().max())))


# --- processes ---


@pytest.mark.parametrize("size", [2, 3])
def test_gloo(size, tmp_path):
    def start(rank):
        program = [sys.executable, "-W", "error", HERE / "torch_ranks.py", str(rank), str(size), tmp_path / "store"]
        options = {"env": ON_LOCALHOST, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(program, **options)

    ranks = [start(rank) for rank in range(size)]
    told = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * size, "\n\n".join(told)


def test_the_program_of_the_page(tmp_path):
    """It runs as the page says, and its losses are those of one process."""
    page = PAGE.read_text()
    blocks = (r"```python\n(import .*?)```", r"```sh\n(.*?)```")
    program, command = (re.search(block, page, re.DOTALL)[1] for block in blocks)
    (tmp_path / "train.py").write_text(program)
    arguments = command.split()
    assert arguments[:4] == ["torchrun", "--standalone", "--nproc-per-node", "2"]
    options = {"env": ON_LOCALHOST, "cwd": tmp_path, "capture_output": True, "text": True, "timeout": 120}
    many = subprocess.run([sys.executable, "-m", "torch.distributed.run", *arguments[1:]], check=True, **options)
    options["env"] |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    one = subprocess.run([sys.executable, *arguments[4:]], check=True, **options)
    assert many.stdout == one.stdout and one.stdout.count("loss") == 5


# --- threads ---


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dtypes_and_layouts(shape, layout, dtype):
    generator, tolerance = torch.Generator().manual_seed(0), DTYPES[dtype]
    theirs = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](shape[1])
    for parameter in theirs.double().parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator).to(dtype))
    whole, dy = (torch.randn(shape, generator=generator).add(0.5).to(dtype) for _ in range(2))
    start, wide, cuts = copy.deepcopy(theirs.state_dict()), whole.double().requires_grad_(), (shape[0] - 1, 1)
    expected = theirs(wide)
    expected.backward(dy.double())

    def train(comm):
        norm = own.SyncBatchNorm(shape[1], comm=comm, dtype=dtype)
        norm.load_state_dict(start)
        x, own_dy = (LAYOUTS[layout](tensor.detach().split(cuts)[comm.rank].clone()) for tensor in (whole, dy))
        x.requires_grad_()
        y = norm(x)
        y.backward(own_dy)
        assert y.dtype == x.grad.dtype == norm.weight.grad.dtype == dtype
        if layout == "channels_last":
            assert y.movedim(1, -1).is_contiguous()
        return y, x.grad, norm

    ys, gradients, norms = zip(*on_ranks(2, train), strict=True)
    close(torch.cat(ys), expected, tolerance)
    close(torch.cat(gradients), wide.grad, 10 * tolerance)
    close(sum(norm.weight.grad.double() for norm in norms), theirs.weight.grad, 5 * tolerance)
    close(sum(norm.bias.grad.double() for norm in norms), theirs.bias.grad, 5 * tolerance)
    for norm in norms:
        close(norm.running_mean, theirs.running_mean, tolerance)
        close(norm.running_var, theirs.running_var, tolerance)
        assert norm.num_batches_tracked == 1


def test_autocast():
    norm = own.SyncBatchNorm(3, comm=alone())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(torch.randn(4, 3, 5, 5, dtype=torch.bfloat16))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and norm.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("shape", [(5, 3), (3, 2, 4), (3, 2, 2, 3)], ids=str)
def test_gradients(shape, options):
    norm = own.SyncBatchNorm(shape[1], comm=alone(), dtype=torch.float64, **options)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    names, tensors = zip(*norm.named_parameters(), strict=True) if options != {"affine": False} else ((), ())

    def function(x, *parameters):
        return torch.func.functional_call(norm, dict(zip(names, parameters, strict=True)), (x,))

    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x, *tensors))
    (first,) = torch.autograd.grad(function(x, *tensors).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()
    many = torch.ones(2, *shape, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="dy must be a plain tensor on the CPU, not a batch of gradients"):
        torch.autograd.grad(function(x, *tensors), x, many, is_grads_batched=True)


@pytest.mark.parametrize("of", ["x", "weight", "bias"])
def test_gradients_of_one_input_alone(of):
    theirs, ours = nn.BatchNorm2d(3).double(), own.SyncBatchNorm(3, comm=alone()).double()
    x, dy = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    gradients = []
    for module in (ours, theirs):
        given = x.clone().requires_grad_(of == "x")
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name == of)
        module(given).backward(dy)
        wanted = {"x": given, "weight": module.weight, "bias": module.bias}
        assert [name for name, tensor in wanted.items() if tensor.grad is not None] == [of]
        gradients.append(wanted[of].grad)
    close(*gradients, 1e-11)


def test_a_batch_that_is_empty_everywhere():
    """It changes nothing, as in all modules of cbn."""

    def train(comm):
        norm, x = own.SyncBatchNorm(3, comm=comm), torch.randn(0, 3, 4, requires_grad=True)
        norm(x).sum().backward()
        return x.grad.shape, norm.weight.grad.tolist(), norm.running_var.tolist(), norm.num_batches_tracked.item()

    assert on_ranks(2, train) == [((0, 3, 4), [0] * 3, [1] * 3, 0)] * 2


@pytest.mark.parametrize("momentum", [None, 0.5])
def test_without_a_counter(momentum):
    """As torch: nothing is averaged without a count."""
    norm = own.SyncBatchNorm(3, momentum=momentum, comm=alone())
    norm.num_batches_tracked = None
    norm(torch.randn(4, 3))
    assert (norm.running_var == 1).all() == (momentum is None)


def test_writes_are_counted():
    norm = own.SyncBatchNorm(3, comm=alone())
    versions = [tensor._version for tensor in norm.buffers()]
    norm(torch.randn(4, 3, 5))
    assert all(tensor._version > version for tensor, version in zip(norm.buffers(), versions, strict=True))


def test_errors_that_all_ranks_have():
    """They change nothing either."""
    norm = own.SyncBatchNorm(3, comm=alone())
    for name, wrong, right in (("eps", -1, 1e-5), ("momentum", 2, 0.1), ("running_var", torch.ones(2), torch.ones(3))):
        setattr(norm, name, wrong)
        with pytest.raises(ValueError, match=f"{name} must "):
            norm(torch.randn(4, 3))
        setattr(norm, name, right)
    assert norm.num_batches_tracked == 0 and (norm.running_mean == 0).all()


def test_checkpointing_of_activations():
    """The second forward call comes in the middle of the backward one."""

    def train(comm):
        norm = own.SyncBatchNorm(3, comm=comm).double()
        x = parts[comm.rank].clone().requires_grad_()
        torch.utils.checkpoint.checkpoint(norm, x, use_reentrant=False).pow(3).sum().backward()
        return x.grad

    parts = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    whole = parts.flatten(0, 1).requires_grad_()
    nn.BatchNorm1d(3).double()(whole).pow(3).sum().backward()
    close(torch.cat(on_ranks(2, train)), whole.grad, 1e-10)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # which torch.compile itself looks at
def test_compile_breaks_the_graph():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    x, expected = torch.randn(2, 3, 6, 6), copy.deepcopy(model)
    own.convert_sync_batchnorm(model, comm=alone())
    y = torch.compile(model, backend="eager")(x)
    close(y, expected(x), 1e-5)
    y.sum().backward()
    assert model[1].weight.grad is not None and model[1].num_batches_tracked == 1


# --- alone ---


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_without_a_process_group(shape):
    theirs = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](shape[1])
    ours, x = own.SyncBatchNorm(shape[1]), torch.randn(shape)
    for mode in (True, False):
        close(ours.train(mode)(x), theirs.train(mode)(x), 1e-5)
    assert "cbn" not in str(torch.export.export(nn.Sequential(ours), (x,)).graph)
    assert "cbn" not in str(torch.fx.symbolic_trace(nn.Sequential(ours)).graph)
    assert own.SyncBatchNorm(3, device="meta")(torch.randn(2, 3, 4, 4, device="meta")).is_meta


def test_arguments_are_torchs():
    ours, theirs = own.SyncBatchNorm(3, 1e-3, 0.2, True, True, None, "cpu", torch.float64, bias=False), None
    theirs = nn.SyncBatchNorm(3, 1e-3, 0.2, True, True, None, "cpu", torch.float64, bias=False)
    assert repr(ours) == repr(theirs) and set(vars(theirs)) <= set(vars(ours))
    assert ours.load_state_dict(theirs.state_dict()) and theirs.load_state_dict(ours.state_dict())
    assert not isinstance(ours, nn.SyncBatchNorm) and isinstance(ours, nn.modules.batchnorm._BatchNorm)


def test_what_is_refused():
    norm = own.SyncBatchNorm(3, comm=alone())
    for x in (torch.ones(3), torch.ones(2, 0, 3)):
        with pytest.raises(ValueError, match=r"expected at least 2D input|number of input channels should be non-zero"):
            norm(x)
    with pytest.raises(TypeError, match="tensors must be plain ones on the CPU"):
        norm(torch.ones(2, 3, device="meta"))
    with pytest.raises(TypeError, match="comm must be an MPI communicator, or have a method allgather; got int"):
        own.SyncBatchNorm(3, comm=1)
    with pytest.raises(ValueError, match="comm must be None beside a process_group; got ThreadCommunicator"):
        own.convert_sync_batchnorm(nn.BatchNorm1d(3), object(), comm=alone())


# --- conversion ---


def test_conversion_keeps_all_but_the_class():
    class Mine(nn.BatchNorm2d):
        pass

    norms = [nn.BatchNorm1d(3), own.BatchNorm2d(3), nn.SyncBatchNorm(3), nn.BatchNorm3d(3, affine=False), Mine(3)]
    model = nn.Sequential(*norms, nn.ModuleList([norms[0]]))
    norms[0].eval().weight.requires_grad_(False)
    state, parameters, comm = copy.deepcopy(model.state_dict()), list(model.parameters()), alone()
    assert own.convert_sync_batchnorm(model, comm=comm) is model
    assert [type(norm) for norm in norms] == [own.SyncBatchNorm] * 4 + [Mine]
    assert all(norm.comm is comm and norm.process_group is None for norm in norms[:4])
    assert not norms[0].training and not norms[0].weight.requires_grad and norms[1].training
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    own.restore(own.accelerate(model))
    assert [type(norm) for norm in norms] == [own.SyncBatchNorm] * 4 + [Mine]
    assert own.convert_sync_batchnorm(model)[0].comm is None


def test_copies_pickles_and_files():
    comm, x, stream = alone(), torch.randn(4, 3, 5), io.BytesIO()
    norm = own.SyncBatchNorm(3, comm=comm)
    norm(x).sum().backward()
    twin = copy.deepcopy(nn.Sequential(norm))[0]
    assert twin.comm is comm and twin.running_var is not norm.running_var and torch.equal(twin(x), norm(x))
    norm = own.convert_sync_batchnorm(norm)
    torch.save(norm, stream)
    stream.seek(0)
    for twin in (pickle.loads(pickle.dumps(norm)), torch.load(stream, weights_only=False)):
        assert type(twin) is own.SyncBatchNorm and torch.equal(twin(x), norm(x))
