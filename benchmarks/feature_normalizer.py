"""feature_normalizer: FeatureNormalizer, plain and in scikit-learn, against scikit-learn's StandardScaler."""

import argparse
import functools
import importlib.util
from dataclasses import dataclass

import numpy as np

import cbn
import machine
import timing
from common import Progress, UserError, add_json_option, check, run_main, write_json

SHAPES = [(10**6, 30), (10**4, 1000)]
QUICK = [(1000, 30), (100, 300)]
MISSING = 0.01


@dataclass
class Data:
    x: np.ndarray
    missing: np.ndarray  # x with NaN in every feature
    frame: np.ndarray  # x in Fortran order, as data frames have it
    weights: np.ndarray


def data_of(shape, dtype):
    rng = np.random.default_rng(0)
    x = (3 + 2 * rng.standard_normal(shape)).astype(dtype)
    missing = np.where(rng.random(shape) < MISSING, dtype(np.nan), x)
    return Data(x, missing, np.asfortranarray(x), rng.uniform(0.5, 2, shape[0]))


def calls_of(data, kind):
    """The calls of a contender by name, each a partial object."""
    fitted = kind().fit(data.x)
    growing = kind().fit(data.x)
    return {
        "fit": functools.partial(kind().fit, data.x),
        "partial_fit": functools.partial(growing.partial_fit, data.x),
        "transform": functools.partial(fitted.transform, data.x),
        "inverse_transform": functools.partial(fitted.inverse_transform, data.x),
        "fit, weights": functools.partial(kind().fit, data.x, sample_weight=data.weights),
        "fit, NaN": functools.partial(kind().fit, data.missing),
        "transform, NaN": functools.partial(fitted.transform, data.missing),
        "fit, Fortran order": functools.partial(kind().fit, data.frame),
        "transform, Fortran order": functools.partial(fitted.transform, data.frame),
    }


def contenders():
    """The contenders' classes by name."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError("scikit-learn must be installed (pip install '.[sklearn]'); got no such module")
    from sklearn.preprocessing import StandardScaler

    from cbn.interop.sklearn import FeatureNormalizer

    return {"cbn": cbn.FeatureNormalizer, "in scikit-learn": FeatureNormalizer, "StandardScaler": StandardScaler}


def rows(shape, dtype, repeats):
    """The time of each call of each contender, and StandardScaler's over the others'."""
    data = data_of(shape, dtype)
    calls = {name: calls_of(data, kind) for name, kind in contenders().items()}
    for operation in calls["cbn"]:
        samples = timing.measure({name: some[operation] for name, some in calls.items()}, repeats)
        ratios = {name: timing.ratio(samples["StandardScaler"], s) for name, s in samples.items()}
        del ratios["StandardScaler"]
        yield {
            "shape": shape,
            "dtype": np.dtype(dtype).name,
            "operation": operation,
            "seconds": {name: s.summary() for name, s in samples.items()},
            "standard_scaler_over": ratios,
        }


def line(row):
    text = f"{'x'.join(map(str, row['shape'])):13}{row['dtype']:9}{row['operation']:26}"
    text += "".join(f"{1e3 * seconds['median']:15.2f}" for seconds in row["seconds"].values())
    return text + "".join(f"{ratio:15.1f}" for ratio in row["standard_scaler_over"].values())


def lost(row):
    return min(row["standard_scaler_over"].values()) <= 1


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=cbn.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--quick", action="store_true", help="small arrays, once, to see that it runs; its times mean nothing"
    )
    add_json_option(parser)
    options = parser.parse_args()
    check(options)
    names = list(contenders())
    facts = machine.machine()
    print(machine.headline(facts, options.threads))
    title = "ms, and StandardScaler's over the first two"
    print(f"{title:48}" + "".join(f" {name:>14}" for name in names + names[:2]))
    cases = [(shape, dtype) for shape in (QUICK if options.quick else SHAPES) for dtype in (np.float32, np.float64)]
    progress, results = Progress([1] * len(cases)), []
    with cbn.num_threads(options.threads):
        for shape, dtype in cases:
            for row in rows(shape, dtype, 1 if options.quick else options.repeats):
                results.append(row)
                print(line(row) + ("  LOST" if lost(row) and not options.quick else ""), flush=True)
            progress.step()
    write_json(options.json, {"machine": facts, "threads": options.threads, "rows": results})


if __name__ == "__main__":
    run_main(main)
