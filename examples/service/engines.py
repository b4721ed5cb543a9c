"""engines: the same trained network on cbn, torch and ONNX Runtime, to compare; each takes uint8 images (N, 8, 8)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import network
import numpy as np
from network import Model

Predict = Callable[[np.ndarray], np.ndarray]


def on_torch(model: Model) -> Predict:
    """The folded network as torch modules, with one thread."""
    import torch

    torch.set_num_threads(1)
    pixels = torch.nn.BatchNorm1d(model.pixels.num_features, eps=model.pixels.eps, affine=False)
    state = model.pixels.state_dict()
    pixels.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
    modules: list[Any] = [pixels]
    for weight, bias in network.folded(model):
        linear = torch.nn.Linear(*weight.shape)
        linear.load_state_dict({"weight": torch.from_numpy(weight.T.copy()), "bias": torch.from_numpy(bias)})
        modules += [linear, torch.nn.ReLU()]
    stack = torch.nn.Sequential(*modules[:-1], torch.nn.Softmax(dim=1)).eval()

    @torch.inference_mode()
    def predict(images: np.ndarray) -> np.ndarray:
        return stack(torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))).numpy()

    return predict


def onnx_model(model: Model) -> Any:
    """The folded network as an ONNX model."""
    from onnx import TensorProto, helper, numpy_helper

    size = model.pixels.num_features
    weights = {"mean": model.pixels.running_mean, "var": model.pixels.running_var}
    weights |= {"one": np.ones(size, np.float32), "zero": np.zeros(size, np.float32)}
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("BatchNormalization", ["grey", "one", "zero", "mean", "var"], ["x"], epsilon=model.pixels.eps),
    ]
    x, layers = "x", network.folded(model)
    for i, (weight, bias) in enumerate(layers):
        weights |= {f"weight{i}": weight, f"bias{i}": bias}
        nodes.append(helper.make_node("Gemm", [x, f"weight{i}", f"bias{i}"], [f"linear{i}"]))
        last = i == len(layers) - 1
        x = "probabilities" if last else f"relu{i}"
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"linear{i}"], [x]))
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", network.SIDE, network.SIDE])
    answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", network.SIZES[-1]])
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "digits", [images], [answer], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def on_onnxruntime(model: Model) -> Predict:
    """The folded network in ONNX Runtime, from a file beside the model's that `python engines.py` writes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.file.with_suffix(".onnx"), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


ENGINES: dict[str, Callable[[Model], Predict]] = {
    "cbn": network.Folded,
    "cbn-unfolded": network.Unfolded,
    "torch": on_torch,
    "onnxruntime": on_onnxruntime,
}


if __name__ == "__main__":
    import sys

    source = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("model.npz"))
    source.with_suffix(".onnx").write_bytes(onnx_model(network.load(source)).SerializeToString())
