"""test_fold_models: folding whole ONNX models: random ones, and what torch exports, against torch."""

import io

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx_ir")
torch = pytest.importorskip("torch")
from onnx_models import Build, ops  # noqa: E402
from torch import nn  # noqa: E402

from cbn.interop.onnx import fold, from_model, verify  # noqa: E402

LINEAR = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


class Chain(Build):
    """Random operations one after the other, some of whose outputs are used again later."""

    def __init__(self, seed):
        super().__init__(seed=seed)
        self.x, self.shape, self.past, self.outputs = "x", (2, 4, 9, 9), [], []

    def pick(self, *values):
        return values[self.rng.integers(len(values))]

    def step(self):
        kinds = (self.norm_step, self.norm_step, self.relu, self.reuse, self.output)
        kinds += (self.convolution, self.convolution, self.pool) if len(self.shape) == 4 else (self.gemm, self.matmul)
        y, shape = f"v{len(self.nodes)}", self.pick(*kinds)()
        if shape is not None:
            self.past.append((self.x, self.shape))
            self.x, self.shape = y, shape

    def put(self, op_type, inputs, shape, **attributes):
        self.op(op_type, inputs, f"v{len(self.nodes)}", **attributes)
        return shape

    def norm_step(self):
        self.norm(self.x, f"v{len(self.nodes)}", self.shape[1])
        return self.shape

    def relu(self):
        return self.put("Relu", self.x, self.shape)

    def reuse(self):
        same = [name for name, shape in self.past if shape == self.shape]
        return self.put("Add", f"{self.x} {self.pick(*same)}", self.shape) if same else None

    def output(self):
        if self.x not in ("x", *self.outputs):
            self.outputs.append(self.x)

    def weights(self, shape, channels):
        k = len(self.nodes)
        names = [self.constant(f"w{k}", shape)]
        self.constants[f"w{k}"] *= np.float32(2 / np.sqrt(np.prod(shape) / channels))
        return " ".join(names + ([self.constant(f"b{k}", channels)] if self.rng.random() < 0.5 else []))

    def convolution(self):
        into, size = self.shape[1], self.shape[2]
        groups, out, kernel, pad = self.pick(1, 2), self.pick(4, 6), self.pick(1, 3), self.pick(0, 1)
        transposed = self.rng.random() < 0.3
        grown = size + (kernel - 1 - 2 * pad) * (1 if transposed else -1)
        if grown < 1:
            return None
        shape = (into, out // groups) if transposed else (out, into // groups)
        names = f"{self.x} {self.weights((*shape, kernel, kernel), out)}"
        name = "ConvTranspose" if transposed else "Conv"
        return self.put(name, names, (2, out, grown, grown), group=groups, pads=[pad] * 4)

    def pool(self):
        if self.rng.random() < 0.7:
            return None
        return self.put("ReduceMean", self.x, self.shape[:2], axes=[2, 3], keepdims=0)

    def gemm(self):
        out, transposed = self.pick(3, 5), self.pick(0, 1)
        shape = (out, self.shape[1]) if transposed else (self.shape[1], out)
        names = f"{self.x} {self.weights(shape, out)}"
        return self.put("Gemm", names, (2, out), transB=transposed, alpha=self.pick(1.0, 0.5), beta=self.pick(1.0, 2.0))

    def matmul(self):
        k, out = len(self.nodes), self.pick(3, 5)
        self.constant(f"w{k}", (self.shape[1], out))
        return self.put("MatMul", f"{self.x} w{k}", (2, out))


@pytest.mark.parametrize("seed", range(40))
def test_random(seed):
    """The same numbers, every norm accounted for, and none left alone behind what could take it."""
    chain = Chain(seed)
    while len(chain.nodes) < 14:
        chain.step()
    names = list(dict.fromkeys([*chain.outputs, chain.x]))
    model = chain.model([2, 4, 9, 9], " ".join(names))
    found = fold(model)
    onnx.checker.check_model(found.model, full_check=True)
    agreement = verify(model, found.model)
    assert agreement.ok and agreement.error < 2e-5
    assert [output.name for output in found.model.graph.output] == names
    assert len(found.folded) + len(found.left) == ops(model).count("BatchNormalization")
    assert len(found.left) == ops(found.model).count("BatchNormalization")
    makers = {name: node for node in found.model.graph.node for name in node.output}
    used = [name for node in found.model.graph.node for name in node.input] + names
    for node in found.model.graph.node:
        if node.op_type == "BatchNormalization" and node.input[0] in makers and used.count(node.input[0]) == 1:
            assert makers[node.input[0]].op_type not in LINEAR


# --- torch ---


class Residual(nn.Module):
    """What networks for images are made of, in small; `bias` is that of the convolutions."""

    def __init__(self, bias):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=bias), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=bias),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 1, bias=bias),
            nn.BatchNorm2d(8),
        )
        self.before = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=bias))
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 4, 2, stride=2, bias=bias), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(400, 6, bias), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.deep(x))
        return self.head(self.up(x + self.before(x)))


@pytest.fixture(params=[("legacy", False), ("legacy", True), ("dynamo", False), ("dynamo", True)])
def exported(request):
    """A module in evaluation mode, x, and its model with all its norms."""
    torch.manual_seed(0)
    exporter, bias = request.param
    module = Residual(bias)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in ((norm.weight, 0.5, 2), (norm.bias, -1, 1), (norm.running_var, 0.3, 2)):
                nn.init.uniform_(tensor, low, high)
            nn.init.uniform_(norm.running_mean, -1, 1)
    module, x = module.eval(), torch.randn(2, 3, 10, 10)
    options = {"input_names": ["image"], "output_names": ["logits"]}
    if exporter == "dynamo":
        program = torch.onnx.export(module, (x,), dynamo=True, optimize=False, verbose=False, **options)
        return module, x, program.model_proto
    file, training = io.BytesIO(), torch.onnx.TrainingMode.PRESERVE  # which does not fold
    torch.onnx.export(module, (x,), file, dynamo=False, training=training, do_constant_folding=False, **options)
    return module, x, onnx.load_from_string(file.getvalue())


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")
def test_torch(exported):
    module, x, model = exported
    assert ops(model).count("BatchNormalization") == 6
    found = fold(model)
    assert verify(model, found.model, x.numpy()).error < 3e-6
    took = sorted(entry.how.partition(" ")[0] for entry in found.folded)
    assert took in (["Conv", "Conv", "Conv", "ConvTranspose", head] for head in ("Gemm", "MatMul"))
    assert len(found.left) == 1 and "(Relu), which cannot take it" in found.left[0].reason
    norm, left = module.before[0], from_model(found.model, found.left[0].norm)
    np.testing.assert_array_equal(left.running_var, norm.running_var)
    assert (left.eps, left.training) == (norm.eps, False)
    session = runtime.InferenceSession(found.model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(["logits"], {"image": x.numpy()})
    with torch.no_grad():
        wanted = module(x).numpy()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
