"""interop: how users call cbn.interop, and the types that come out; mypy reads this, nothing runs it."""

from collections import OrderedDict
from typing import Any, assert_type

import dask.array
import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir
import torch
from dask.delayed import delayed
from mpi4py import MPI

import cbn
import cbn.interop.dask
import cbn.interop.flax
import cbn.interop.keras
import cbn.interop.mpi
import cbn.interop.onnx
import cbn.interop.sklearn
import cbn.interop.torch
from cbn.interop.communicators import Communicator, ProcessGroupCommunicator, ThreadCommunicator

Array = npt.NDArray[Any]


def of_torch(model: torch.nn.Sequential, layer: cbn.BatchNorm) -> None:
    assert_type(cbn.interop.torch.accelerate(model), torch.nn.Sequential)
    assert_type(cbn.interop.torch.restore(model), torch.nn.Sequential)
    assert_type(cbn.interop.torch.BatchNorm2d(3, device="cpu").running_mean, torch.Tensor | None)
    assert_type(cbn.interop.torch.convert_sync_batchnorm(model, comm=None), torch.nn.Sequential)
    norm = cbn.interop.torch.SyncBatchNorm(3, 1e-5, None, process_group=torch.distributed.group.WORLD, bias=False)
    assert_type((norm.running_var, norm.momentum), tuple[torch.Tensor | None, float | None])
    assert_type(cbn.interop.torch.from_state_dict(model.state_dict(), "bn1", momentum=None), cbn.BatchNorm)
    state = cbn.interop.torch.to_state_dict(layer, version=1)
    assert_type(state, OrderedDict[str, torch.Tensor])
    model.load_state_dict(state)
    layer.load_state_dict(model.state_dict())
    cbn.interop.torch.empty_cache()


def of_keras_and_flax(layer: cbn.BatchNorm) -> None:
    weights, config = cbn.interop.keras.to_weights(layer, variance="keep")
    assert_type((weights, config), tuple[list[Array], dict[str, Any]])
    assert_type(cbn.interop.keras.from_weights(weights, config, fused=True), cbn.BatchNorm)
    assert_type(cbn.interop.keras.KERAS_FUSED, cbn.Convention)
    variables = cbn.interop.flax.to_variables(layer, "Block_0/BatchNorm_0", nnx=True)
    assert_type(cbn.interop.flax.from_variables(variables, eps=1e-3), cbn.BatchNorm)


def of_onnx(proto: onnx.ModelProto, model: onnx_ir.Model, layer: cbn.BatchNorm) -> None:
    assert_type(cbn.interop.onnx.fold(proto).model, onnx.ModelProto)
    assert_type(cbn.interop.onnx.fold("model.onnx").model, onnx_ir.Model)
    assert_type(cbn.interop.onnx.fold(model).left[0].reason, str)
    agreement = cbn.interop.onnx.verify(proto, model, np.zeros((2, 3)))
    assert_type((agreement.error, agreement.ok, agreement.notes), tuple[float, bool, tuple[str, ...]])
    assert_type(cbn.interop.onnx.from_model(proto, "norm"), cbn.BatchNorm)
    assert_type(cbn.interop.onnx.to_model(model, layer, count=64), onnx.ModelProto)
    node, initializers = cbn.interop.onnx.to_node(layer, opset=17)
    assert_type((node, initializers), tuple[onnx.NodeProto, list[onnx.TensorProto]])


def of_sklearn(x: Array, layer: cbn.BatchNorm) -> None:
    normalizer = cbn.interop.sklearn.FeatureNormalizer(nan="propagate").fit(x)
    assert_type(normalizer, cbn.interop.sklearn.FeatureNormalizer)
    assert_type(normalizer.mean_, npt.NDArray[np.float64] | None)
    assert_type(cbn.interop.sklearn.from_scaler(normalizer), cbn.BatchNorm)
    cbn.interop.sklearn.to_scaler(layer).transform(x)


def of_mpi(x: Array) -> None:
    layer = cbn.interop.mpi.SyncBatchNorm(3, momentum=None, activation="relu", comm=MPI.COMM_WORLD.Split(0))
    assert_type(layer(x), Array)
    assert_type(layer.state_dict()["weight"], Array)
    threads = ThreadCommunicator.group(2, timeout=10)
    assert_type(threads, list[ThreadCommunicator])
    one: Communicator
    for one in (cbn.interop.mpi.MPICommunicator(timeout=60), ProcessGroupCommunicator(), threads[0]):
        cbn.interop.mpi.SyncBatchNorm(3, comm=one)


def of_dask(x: Array, lazy: dask.array.Array, path: str) -> None:
    assert_type(cbn.interop.dask.moments(lazy, axis=-1, checkpoint=path), cbn.Moments)
    assert_type(cbn.interop.dask.moments(x), cbn.Moments)
    cbn.interop.dask.moments([delayed(np.zeros)((2, 3))], progress=False)
