"""refused: wrong calls, each of which must be an error of this kind; mypy reads this, nothing runs it."""

import numpy as np
import numpy.typing as npt

import cbn
import cbn.interop.dask
import cbn.interop.mpi
import cbn.interop.torch


def functions(x: npt.NDArray[np.float32]) -> None:
    cbn.batch_norm(x, [0.0], [1.0])  # type: ignore[arg-type]  # running statistics are arrays
    cbn.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, 1)  # type: ignore[call-arg]  # axis by keyword only
    cbn.batch_norm(x, activation="gelu")  # type: ignore[arg-type]
    cbn.batch_norm_forward(x, momentum=0.1)  # type: ignore[call-arg]
    _, _, _ = cbn.batch_norm_backward(x, x, x, x, residual=True)  # type: ignore[misc]  # four results
    cbn.batch_norm_backward(x, x, x, x, residual=True, out=x)  # type: ignore[call-overload]  # out is a pair
    cbn.batch_norm_double_backward(x, x, x, x, x, x)  # type: ignore[call-arg]
    cbn.set_num_threads("2")  # type: ignore[arg-type]
    with cbn.num_threads():  # type: ignore[call-arg]
        pass


def layers(x: npt.NDArray[np.float32], name: str) -> None:
    cbn.BatchNorm(2, convention="pytorch")  # type: ignore[arg-type]
    cbn.BatchNorm(2, convention=name)  # type: ignore[arg-type]  # any text
    cbn.BatchNorm(2, nonfinite="ignore")  # type: ignore[arg-type]
    cbn.BatchNorm(2, eps=None)  # type: ignore[arg-type]
    cbn.BatchNorm(2, 1e-5, 0.1, True, True, False)  # type: ignore[call-arg]  # weight by keyword only
    layer = cbn.BatchNorm(2)
    layer.running_mean[0] = 1  # type: ignore[index]  # perhaps None
    layer.count = 3  # type: ignore[misc]
    layer.activation = "gelu"  # type: ignore[assignment]
    layer.forward(x)  # type: ignore[attr-defined]
    layer.drift(x).mean_shift = x  # type: ignore[misc, assignment]  # frozen, and float64
    layer.load_state_dict([x])  # type: ignore[arg-type]
    cbn.BatchNorm2d.load("layer.npz").train("yes")  # type: ignore[arg-type]
    cbn.convert(layer, "torch", variance="both")  # type: ignore[arg-type]
    cbn.Convention("own", momentum_weighs="older")  # type: ignore[arg-type]


def the_rest(x: npt.NDArray[np.float32], layer: cbn.BatchNorm) -> None:
    cbn.FeatureNormalizer(1)  # type: ignore[call-arg]
    cbn.FeatureNormalizer(nan="omit")  # type: ignore[arg-type]
    cbn.moments(x) + 1  # type: ignore[operator]
    cbn.recompute_statistics(layer, [(x, "label")], mode="swa")  # type: ignore[call-overload]
    cbn.population_moments(x, 1)  # type: ignore[call-arg]  # axis by keyword only
    cbn.population_moments(x, checkpoint=True)  # type: ignore[arg-type]
    cbn.population_moments(3.0)  # type: ignore[arg-type]
    cbn.population_moments([[1.0, 2.0]])  # type: ignore[list-item]
    cbn.interop.dask.moments(layer)  # type: ignore[arg-type]
    cbn.fold_conv(x, None, layer).error + 1  # type: ignore[operator]  # perhaps None
    cbn.update_running([0.0], [1.0], cbn.moments(x), 0.1)  # type: ignore[arg-type]  # in place
    cbn.interop.torch.to_state_dict(layer, version=3)  # type: ignore[arg-type]
    cbn.interop.torch.SyncBatchNorm(3, 1e-5, "sum")  # type: ignore[arg-type]
    cbn.interop.torch.SyncBatchNorm(3, comm="world")  # type: ignore[arg-type]
    cbn.interop.torch.convert_sync_batchnorm(layer)  # type: ignore[type-var]
    cbn.interop.torch.accelerate(layer)  # type: ignore[type-var]
    cbn.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def ranks(layer: cbn.BatchNorm) -> None:
    cbn.interop.mpi.SyncBatchNorm(3, comm=layer)  # type: ignore[arg-type]  # has no allgather
    cbn.interop.mpi.SyncBatchNorm(3, virtual_batch_size=2)  # type: ignore[arg-type]
    cbn.interop.mpi.MPICommunicator(timeout="1")  # type: ignore[arg-type]
