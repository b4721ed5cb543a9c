"""test_torch_modules: cbn.interop.torch's modules do what torch's do: values, gradients, state, hooks, exports."""

import copy
import io
import pickle

import numpy as np
import pytest

import cbn

torch = pytest.importorskip("torch")
own = pytest.importorskip("cbn.interop.torch")
nn = torch.nn

SHAPES = [(5, 3), (4, 3, 7), (3, 5, 6, 7), (6, 33, 7, 7), (2, 64, 20, 21), (1, 2, 300, 301), (2, 3, 4, 5, 6)]
NAMES = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}
OPTIONS = [
    {},
    {"momentum": None},
    {"momentum": 0.7, "eps": 1e-2},
    {"affine": False},
    {"track_running_stats": False},
    {"bias": False},
]
DTYPES = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "sliced": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "expanded": lambda x: x[:1].expand(x.shape),
}


def pair(shape, dtype=torch.float32, **options):
    """torch's module in float64, and cbn's with the same parameters, rounded."""
    generator = torch.Generator().manual_seed(0)
    theirs = getattr(nn, NAMES[len(shape)])(shape[1], dtype=torch.float64, **options)
    for parameter in theirs.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator).to(dtype))
    ours = getattr(own, NAMES[len(shape)])(shape[1], dtype=dtype, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def close(ours, theirs, tolerance):
    ours, theirs = ours.detach().double(), theirs.detach().double()
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * max(1, float(theirs.abs().max())))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape, layout, dtype):
    ours, theirs = pair(shape, dtype)
    tolerance = DTYPES[dtype]
    generator = torch.Generator().manual_seed(1)
    for mode in (True, True, False):
        ours.train(mode), theirs.train(mode), theirs.zero_grad(), ours.zero_grad()
        x, dy = (LAYOUTS[layout](torch.randn(shape, generator=generator).add(0.5).to(dtype)) for _ in range(2))
        x.requires_grad_()
        wide = x.detach().double().requires_grad_()
        y, expected = ours(x), theirs(wide)
        assert y.dtype == dtype
        y.backward(dy)
        expected.backward(dy.double())
        close(y, expected, tolerance)
        close(x.grad, wide.grad, 10 * tolerance)
        close(ours.weight.grad, theirs.weight.grad, 5 * tolerance)
        close(ours.bias.grad, theirs.bias.grad, 5 * tolerance)
        close(ours.running_mean, theirs.running_mean, tolerance)
        close(ours.running_var, theirs.running_var, tolerance)
        assert ours.num_batches_tracked == theirs.num_batches_tracked


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_options(options, mode):
    ours, theirs = pair((6, 4, 3, 5), torch.float64, **options)
    assert repr(ours) == repr(theirs)
    for _ in range(3):
        x = torch.randn(6, 4, 3, 5, dtype=torch.float64)
        close(ours(x), theirs(x), 1e-12)
    ours.train(mode), theirs.train(mode)
    close(ours(x), theirs(x), 1e-12)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        close(ours.state_dict()[key], value, 1e-12)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("shape", [(5, 3), (3, 2, 4), (3, 2, 2, 3), (2, 2, 2, 1, 3)], ids=str)
def test_gradients_of_gradients(shape, options, mode):
    layer, _ = pair(shape, torch.float64, **options)
    layer.train(mode)
    if not mode:
        layer.running_mean.normal_(), layer.running_var.uniform_(0.5, 2)
    names, tensors = zip(*layer.named_parameters(), strict=True) if options != {"affine": False} else ((), ())

    def function(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x, *tensors))
    assert torch.autograd.gradgradcheck(function, (x, *tensors))


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_batches_of_gradients_and_more_derivatives(mode):
    ours, theirs = pair((4, 3, 2, 2), torch.float64)
    ours.train(mode), theirs.train(mode)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    many = torch.randn(5, *x.shape, dtype=torch.float64)
    functional = torch.autograd.functional
    for function in (
        lambda m: torch.autograd.grad(m(x), x, many, is_grads_batched=True)[0],
        lambda m: functional.jacobian(m, x, vectorize=True),
        lambda m: functional.hessian(lambda z: m(z).pow(3).sum(), x, vectorize=True),
        lambda m: functional.vhp(lambda z: m(z).pow(3).sum(), x, x.detach())[1],
    ):
        close(function(ours), function(theirs), 1e-9)
    if not mode:  # y is a line then, and has derivatives of any order
        results = []
        for module in (ours, theirs):
            (first,) = torch.autograd.grad(module(x).pow(5).sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)
            results.append(torch.autograd.grad(second.pow(2).sum(), (x, module.weight)))
        for a, b in zip(*results, strict=True):
            close(a, b, 1e-9)


@pytest.mark.parametrize("of", ["x", "weight", "bias"])
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_gradients_of_one_input_alone(of, mode):
    ours, theirs = pair((4, 3, 5, 5), torch.float64)
    x, dy = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    gradients = []
    for module in (ours.train(mode), theirs.train(mode)):
        given = x.clone().requires_grad_(of == "x")
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name == of)
        module(given).backward(dy.transpose(2, 3).contiguous().transpose(2, 3))
        wanted = {"x": given, "weight": module.weight, "bias": module.bias}
        assert [name for name, tensor in wanted.items() if tensor.grad is not None] == [of]
        gradients.append(wanted[of].grad)
    close(*gradients, 1e-11)


def test_no_third_derivative():
    """Better an error than a wrong number."""
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(own.BatchNorm2d(2).double()(x).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="must be differentiated at most twice"):
        torch.autograd.grad(second.sum(), x)


def test_gradients_of_fixed_statistics_that_move_on():
    """The running statistics of the forward pass count, though they move on before the backward pass."""
    layer = own.BatchNorm2d(3).eval()
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    y = layer(x)
    layer.running_var.fill_(100)
    y.sum().backward()
    close(x.grad, torch.full_like(x, (1 + layer.eps) ** -0.5), 1e-6)


def test_exact_where_torch_is_not():
    """channels_last at an offset of 1e5 deviations."""
    x = (torch.randn(16, 3, 64, 64) + 1e5).to(memory_format=torch.channels_last)
    exact = cbn.reference.batch_norm_forward(x.numpy())[0]
    assert np.abs(own.BatchNorm2d(3)(x).detach().numpy() - exact).max() < 2e-6
    assert np.abs(nn.BatchNorm2d(3)(x).detach().numpy() - exact).max() > 1e-3


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_bits_for_any_number_of_threads(threads):
    x = torch.randn(8, 16, 60, 61, generator=torch.Generator().manual_seed(0), requires_grad=True)
    expected = cbn.batch_norm(x.detach().numpy(), training=True, num_threads=1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        np.testing.assert_array_equal(own.BatchNorm2d(16)(x).detach().numpy(), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("cut", ["whole", "channels", "crop"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_layouts_are_kept(layout, cut, large):
    """Those of y and dx are torch's, also for parts of channels_last tensors."""
    size = 200 if large else 12
    x = torch.randn(3, 8, size, size).contiguous(memory_format=layout)
    x = {"whole": x, "channels": x[:, 2:6], "crop": x[:, :, 1:-1, 2:]}[cut]
    for mode in (True, False):
        found = []
        for module in (own.BatchNorm2d(x.shape[1]).train(mode), nn.BatchNorm2d(x.shape[1]).train(mode)):
            given = x.detach().requires_grad_()
            y = module(given)
            (dx,) = torch.autograd.grad(y.sum(), given)
            found.append((y.stride(), dx.stride()))
        assert found[0][0] == found[0][1] == found[1][0]


def test_tensors_stay_resizable():
    """NumPy's own arrays of a tensor would forbid it; FSDP resizes parameters."""
    layer, x = own.BatchNorm2d(3), torch.randn(4, 3, 8, 8)
    y = layer(x)
    for tensor in (x, layer.weight, layer.bias, layer.running_mean, layer.running_var, y):
        assert tensor.untyped_storage().resizable()
    x.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match="a tensor must have its memory; got one whose storage was freed"):
        layer(x)


def test_writes_are_counted():
    """What autograd has saved, and is written, is noticed, as with torch's own update."""
    layer = own.BatchNorm2d(3)
    before = [t._version for t in (layer.running_mean, layer.running_var, layer.num_batches_tracked)]
    layer(torch.randn(4, 3, 5, 5))
    after = [t._version for t in (layer.running_mean, layer.running_var, layer.num_batches_tracked)]
    assert all(a > b for a, b in zip(after, before, strict=True))


def test_threads_are_at_most_torchs():
    from cbn.interop.torch_operators import num_threads

    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert num_threads() == min(threads, cbn.get_num_threads())
            with cbn.num_threads(2):
                assert num_threads() == min(threads, cbn.get_num_threads())
    finally:
        torch.set_num_threads(before)


def test_watchers_see_operators():
    x = torch.randn(4, 3, 5, 5)
    with torch.profiler.profile() as profile:
        own.BatchNorm2d(3).eval()(x)
    assert "cbn::batch_norm_inference" in {event.key for event in profile.key_averages()}


def test_a_default_device():
    """Tensors that a call makes for itself are the CPU's."""
    with torch.device("meta"):
        assert own.BatchNorm2d(3, device="cpu")(torch.randn(4, 3, 5, 5, device="cpu").bfloat16()).is_cpu


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_is_shared_both_ways(dtype, layout):
    from cbn.arrays import of_tensor, tensor_of

    x = LAYOUTS[layout](torch.zeros(2, 3, 4, 5, dtype=dtype)).requires_grad_()
    array = of_tensor(x)
    assert array.ctypes.data == x.data_ptr() and array.strides == tuple(s * x.element_size() for s in x.stride())
    assert tensor_of(array).data_ptr() == x.data_ptr() and tensor_of(array).dtype == dtype


@pytest.mark.parametrize(
    ("make", "shape", "error", "message"),
    [
        (own.BatchNorm2d, (1, 3, 1, 1), ValueError, "Expected more than 1 value per channel when training, got input"),
        (own.BatchNorm2d, (2, 3, 4), ValueError, r"expected 4D input \(got 3D input\)"),
        (own.BatchNorm1d, (2, 3, 4, 4), ValueError, r"expected 2D or 3D input \(got 4D input\)"),
        (own.BatchNorm2d, (2, 4, 5, 5), ValueError, r"weight must have shape \(4,\), one value per channel; got"),
        (lambda n: own.BatchNorm2d(n, momentum=2), (2, 3, 5, 5), ValueError, r"momentum must be a number in \[0, 1\]"),
        (lambda n: own.BatchNorm2d(n, eps=-1), (2, 3, 5, 5), ValueError, "eps must be a finite number >= 0; got -1"),
        (lambda n: own.BatchNorm2d(n).half(), (2, 3, 5, 5), TypeError, "weight must have dtype float32 or float64"),
    ],
)
def test_errors_change_nothing(make, shape, error, message):
    layer = make(3)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(error, match=message):
        layer(torch.ones(shape))
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_counter_of_another_kind():
    layer = own.BatchNorm2d(3)
    layer.num_batches_tracked = torch.tensor(0.0)
    with pytest.raises(TypeError, match="num_batches_tracked must be an int64 array of one value"):
        layer(torch.randn(2, 3, 4, 4))
    assert (layer.running_var == 1).all()
    layer.num_batches_tracked, layer.momentum = None, None  # as torch: nothing is averaged without a count
    layer(torch.randn(2, 3, 4, 4))
    assert (layer.running_var == 1).all()
    layer.momentum = 0.5
    layer(torch.randn(2, 3, 4, 4))
    assert (layer.running_var != 1).all()


def test_empty_batches():
    layer = own.BatchNorm2d(3)
    x = torch.randn(0, 3, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape and (layer.weight.grad == 0).all() and layer.num_batches_tracked == 0
    assert layer.eval()(x).shape == x.shape


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own use of it
def test_what_torch_computes():
    """Devices, dtypes and transforms that are none of cbn's."""
    assert own.BatchNorm2d(3, device="meta")(torch.randn(2, 3, 4, 4, device="meta")).is_meta
    with pytest.raises(NotImplementedError, match="not implemented for 'Int'"):
        own.BatchNorm2d(3)(torch.ones(2, 3, 4, 4, dtype=torch.int32))
    ours, theirs = pair((4, 3, 5, 5), torch.float64)
    ours.eval(), theirs.eval()
    x, v = torch.randn(2, 2, 4, 3, 5, 5, dtype=torch.float64)
    close(torch.vmap(ours)(x), torch.vmap(theirs)(x), 1e-12)
    for a, b in zip(torch.func.jvp(ours, (x[0],), (v[0],)), torch.func.jvp(theirs, (x[0],), (v[0],)), strict=True):
        close(a, b, 1e-12)
    close(torch.func.grad(lambda t: ours(t).pow(2).sum())(x[0]), 2 * theirs(x[0]) * theirs.weight.view(3, 1, 1), 1e-4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x[0], v[0])
        close(
            torch.autograd.forward_ad.unpack_dual(ours(dual)).tangent,
            torch.autograd.forward_ad.unpack_dual(theirs(dual)).tangent,
            1e-12,
        )


def test_a_subclass_of_tensor():
    class Tagged(torch.Tensor):
        pass

    assert type(own.BatchNorm2d(3)(torch.randn(2, 3, 4, 4).as_subclass(Tagged))) is Tagged


def network(dtype=torch.float32):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)]
    return nn.Sequential(*layers, nn.BatchNorm1d(5)).to(dtype)


def test_accelerate_keeps_all_but_the_class():
    model = network()
    extra = model[0].extra = nn.ModuleList([model[1], nn.SyncBatchNorm(3), nn.BatchNorm3d(2, affine=False)])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before, state = list(model.modules()), copy.deepcopy(model.state_dict())
    calls = []
    model[1].register_forward_hook(lambda *_: calls.append("forward"))
    model[1].register_forward_pre_hook(lambda *_: calls.append("before"))
    model[1].register_full_backward_hook(lambda *_: calls.append("backward"))
    model[1].tag = "mine"
    model[5].eval()
    model[5].weight.requires_grad_(False)
    assert own.accelerate(model) is model and own.accelerate(model) is model
    assert all(a is b for a, b in zip(model.modules(), before, strict=True))
    kinds = [type(m) for m in (model[1], model[5], *extra)]
    assert kinds == [own.BatchNorm2d, own.BatchNorm1d, own.BatchNorm2d, nn.SyncBatchNorm, own.BatchNorm3d]
    assert model[1].tag == "mine" and not model[5].training and not model[5].weight.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    assert calls == ["before", "forward", "backward"]
    optimizer.step()
    assert own.restore(model) is model
    kinds = [type(m) for m in (model[1], model[5], *extra)]
    assert kinds == [nn.BatchNorm2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.BatchNorm3d]


def test_accelerate_a_norm_and_what_it_refuses():
    norm = nn.BatchNorm2d(3)
    assert type(own.accelerate(norm)) is own.BatchNorm2d and type(own.restore(norm)) is nn.BatchNorm2d

    class Mine(nn.BatchNorm2d):
        pass

    assert type(own.accelerate(Mine(3))) is Mine

    class Closed(nn.Module):
        def __setattr__(self, name, value):
            raise AttributeError(f"closed; got {name}")

    closed = nn.Identity()
    closed.__class__ = Closed
    model = nn.Sequential(nn.BatchNorm2d(3), closed, nn.BatchNorm2d(3))
    assert [type(m) for m in own.accelerate(model)] == [own.BatchNorm2d, Closed, own.BatchNorm2d]
    for function in (own.accelerate, own.restore):
        with pytest.raises(
            TypeError, match=r"model must be a torch\.nn\.Module, not compiled by TorchScript; got dict"
        ):
            function({})


def test_copies_pickles_and_files():
    model = own.accelerate(network())
    x = torch.randn(4, 3, 8, 8)
    model(x)
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    model.eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(stream, weights_only=False)):
        assert type(twin[1]) is own.BatchNorm2d and type(twin[1]).__module__ == "cbn.interop.torch"
        assert torch.equal(twin.eval()(x), model(x))
    plain = network()
    plain.load_state_dict(model.state_dict())
    close(plain.eval()(x), model(x), 1e-5)


def test_autocast():
    ours, theirs = own.accelerate(network()), network()
    x = torch.randn(4, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, expected = ours(x), theirs(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    close(y, expected, 2e-2)
    y.float().sum().backward()
    assert ours[1].weight.grad.dtype == torch.float32


def test_checkpointing_of_activations():
    ours, theirs = own.accelerate(network(torch.float64)), network(torch.float64)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    torch.utils.checkpoint.checkpoint(ours, x, use_reentrant=False).pow(2).sum().backward()
    torch.utils.checkpoint.checkpoint(theirs, x, use_reentrant=False).pow(2).sum().backward()
    close(ours[0].weight.grad, theirs[0].weight.grad, 1e-9)
    assert ours[1].num_batches_tracked == theirs[1].num_batches_tracked


def test_torchs_own_update_bn():
    """It finds the modules, and sets their momentum for the time."""
    ours, theirs = own.accelerate(network(torch.float64)), network(torch.float64)
    batches = [torch.randn(size, 3, 8, 8, dtype=torch.float64) for size in (8, 8, 3)]
    torch.optim.swa_utils.update_bn(batches, ours)
    torch.optim.swa_utils.update_bn(batches, theirs)
    for key, value in theirs.state_dict().items():
        close(ours.state_dict()[key], value, 1e-12)


def test_what_leaves_the_process_is_torchs_own():
    model = own.accelerate(network()).eval()
    x = torch.randn(4, 3, 8, 8)
    exported = torch.export.export(model, (x,))
    assert "cbn" not in str(exported.graph) and "batch_norm" in str(exported.graph)
    assert "cbn" not in str(torch.fx.symbolic_trace(model).graph)
    close(torch.fx.symbolic_trace(model)(x), model(x), 1e-6)


def test_as_a_layer_of_numpy():
    """The state goes to cbn.BatchNorm and back."""
    module = own.BatchNorm2d(3)
    module(torch.randn(4, 3, 5, 5))
    layer = own.from_state_dict(module.state_dict())
    x = torch.randn(4, 3, 5, 5)
    np.testing.assert_array_equal(layer.eval()(x.numpy()), module.eval()(x).detach().numpy())
    assert own.BatchNorm2d(3).load_state_dict(own.to_state_dict(layer))
