"""accepted: how users call cbn, and the types that come out; mypy reads this, nothing runs it."""

from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal, assert_type

import numpy as np
import numpy.typing as npt

import cbn
from cbn import reference

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Wide = npt.NDArray[np.floating[Any]]


def functions(x: npt.NDArray[np.float32], residual: bool) -> None:
    running_mean, running_var = np.zeros(2), np.ones(2)
    assert_type(cbn.batch_norm(x, running_mean, running_var, [1.0, 2.0], activation="relu", out=x), Array)
    assert_type(cbn.batch_norm([[1.0, 2.0], [3.0, 4.0]], training=True, axis=-1, mask=[True, False]), Array)
    forward = cbn.batch_norm_forward(x, activation="leaky_relu", residual=x)
    assert_type(forward, tuple[Array, Doubles, Doubles])
    y, mean, inv_std = forward
    assert_type(cbn.batch_norm_backward(y, x, mean, inv_std, out=y), tuple[Array, Array, Array])
    pair = np.empty_like(x), np.empty_like(x)
    four = cbn.batch_norm_backward(y, x, mean, inv_std, residual=True, out=pair)
    assert_type(four, tuple[Array, Array, Array, Array])
    unknown = cbn.batch_norm_backward(y, x, mean, inv_std, residual=residual)
    assert_type(unknown, tuple[Array, Array, Array] | tuple[Array, Array, Array, Array])
    assert_type(cbn.batch_norm_double_backward(x, None, None, y, x, mean, inv_std), tuple[Array, Array, Array])
    assert_type(cbn.normalize_images(x.astype(np.uint8), [0.5], [1.0]), npt.NDArray[np.float32])


def layers(x: npt.NDArray[np.float32], convention: cbn.Convention, path: Path) -> None:
    layer = cbn.BatchNorm2d(2, momentum=None, convention="keras", dtype=np.float64, renorm_clipping={"rmax": 3})
    layer = cbn.BatchNorm2d(2, 1e-3, 0.1, True, False, nonfinite="skip", one_value="zero_var", convention=convention)
    assert_type(layer(x, sample_weight=[1, 2]), Array)
    assert_type(layer.backward(x), Array | Any)
    assert_type(layer.backward(x, out=x), Array)
    assert_type(layer.backward(x, out=(x, x)), tuple[Array, Array])
    assert_type(layer.train().eval(), cbn.BatchNorm2d)
    assert_type(layer.affine_map(), tuple[Doubles, Doubles])
    assert_type(layer.state_dict(), OrderedDict[str, Array])
    assert_type(layer.load_state_dict({"weight": [1.0, 2.0]}, strict=False).missing_keys, list[str])
    assert_type(cbn.BatchNorm2d.load(path), cbn.BatchNorm2d)
    assert_type(cbn.BatchNorm.load("layer.npz"), cbn.BatchNorm)
    assert_type(cbn.convert(layer, "torch", variance="keep"), cbn.BatchNorm2d)
    assert_type((layer.running_mean, layer.momentum, layer.count), tuple[Array | None, float | None, float | None])
    assert_type(layer.num_batches_tracked, npt.NDArray[np.int64] | None)
    assert_type(layer.activation, Literal["relu", "leaky_relu"] | None)
    assert_type(layer.convention, cbn.Convention)
    layer.convention = "onnx"
    layer.frozen = True


def what_layers_are_held_against(layer: cbn.BatchNorm, x: npt.NDArray[np.float32]) -> None:
    report = layer.check(x)
    assert_type((report.ok, report.max_ulp, report.comparisons[0].error), tuple[bool, dict[str, float], float])
    try:
        layer.check(x, x)
    except cbn.OracleMismatch as error:
        assert_type(error.report, cbn.Report)
    drift = layer.drift(cbn.moments(x), samples=100)
    assert_type((drift.mean_shift, drift.ratio_limits), tuple[Doubles, tuple[float, float]])
    drift.plot("drift.png").set_title("drift")
    found = cbn.explain(x, layer(x), layer.state_dict(), assumed=cbn.conventions.KERAS)
    assert_type(found.ways[0].eps_place, Literal["inside", "outside"])
    assert_type((found.momentum, found.eps), tuple[float | None, tuple[float, ...]])
    assert_type(cbn.conventions.KERAS.weight_of_new(0.9), float)


def statistics(layer: cbn.BatchNorm, x: npt.NDArray[np.float32]) -> None:
    total = cbn.moments(x, sample_weight=[1, 2]) + cbn.Moments(3, [1.0], [2.0])
    assert_type((total.mean, total.var(1)), tuple[Doubles, Doubles])
    assert_type(cbn.Moments.from_dict((total - total).to_dict()), cbn.Moments)
    cbn.update_running(np.zeros(2), np.ones(2), total, 0.1, unbiased=False)
    assert_type(cbn.population_moments(x, axis=-1, checkpoint="run.npz"), cbn.Moments)
    assert_type(cbn.population_moments((x for _ in range(3)), progress=False), cbn.Moments)
    cbn.recompute_statistics(layer, [x, x], mode="paper")
    pairs = [(x, "label")]
    cbn.recompute_statistics({"first": layer}, pairs, lambda pair: layer(pair[0]))
    normalizer = cbn.FeatureNormalizer(nan="raise", moments=total).partial_fit(x)
    assert_type(normalizer, cbn.FeatureNormalizer)
    assert_type((normalizer.transform(x, out=x), normalizer.scale), tuple[Array, Doubles])
    assert_type(normalizer.moments, cbn.Moments | None)


def folding(weight: npt.NDArray[np.float32], layer: cbn.BatchNorm) -> None:
    folded = cbn.fold_conv(weight, None, layer, groups=2, padding=(0, 0))
    assert_type(folded.error, float | None)
    weight, bias = folded
    assert_type(bias, Array)
    assert_type(cbn.fold_conv(weight, bias, layer.affine_map(), verify=True).error, float)
    assert_type(cbn.fold_linear(weight, bias, layer, verify=weight).error, float)
    assert_type(cbn.fold_affine(layer, ([1.0], [0.0])), tuple[Doubles, Doubles])


def oracle_and_process(x: npt.NDArray[np.float32]) -> None:
    assert_type(reference.batch_norm_forward(x), tuple[Array, Wide, Wide])
    assert_type(cbn.reference.moments(x), cbn.Moments)
    with cbn.num_threads(2), cbn.use_isa(cbn.available_isas()[0]):
        assert_type((cbn.get_num_threads(), cbn.__version__), tuple[int, str])
        assert_type((cbn.get_include(), cbn.get_library()), tuple[str, str])
