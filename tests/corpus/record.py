"""record: writes what this version of cbn saves, for all later versions to load: python tests/corpus/record.py

Run it once for each release, before it, and keep the folder of its name for ever: what is in it is never written anew.
The files are those of tests/corpus/<version>; expected.json says what each must be when it is loaded.
"""

import argparse
import json
from pathlib import Path

import ml_dtypes
import numpy as np

import cbn
from cbn.checkpoint import OPTIONS

CHANNELS = 3
BF16 = ml_dtypes.bfloat16
LAYERS = {
    "plain": ("BatchNorm", {}),
    "1d": ("BatchNorm1d", {"momentum": None, "dtype": np.float64}),
    "2d-keras": ("BatchNorm2d", {"convention": "keras", "activation": "relu"}),
    "3d-last": ("BatchNorm3d", {"axis": -1, "eps": 0.125, "momentum": 0.25}),
    "half": ("BatchNorm", {"dtype": np.float16, "activation": "leaky_relu", "negative_slope": 0.25}),
    "bfloat16": ("BatchNorm", {"dtype": BF16, "bias": False}),
    "renorm": ("BatchNorm", {"renorm": True, "renorm_clipping": {"rmax": 3.0, "dmax": 5.0}, "renorm_momentum": 0.5}),
    "ghosts": ("BatchNorm", {"virtual_batch_size": 2, "nonfinite": "skip"}),
    "debiased": ("BatchNorm", {"zero_debias": True, "nonfinite": "raise", "weight": False}),
    "untracked": ("BatchNorm", {"track_running_stats": False}),
    "bare": ("BatchNorm", {"affine": False, "one_value": "zero_var"}),
    "frozen": ("BatchNorm", {"frozen": True}),
    "deviation": ("BatchNorm", {"convention": "lecture"}),
    "outside": ("BatchNorm", {"convention": "notes"}),
    "own-convention": ("BatchNorm", {"convention": cbn.Convention("own", "old", "biased", eps=0.5, momentum=0.75)}),
    "no-channels": ("BatchNorm", {"num_features": 0}),
}
MOMENTS = {
    "whole": (2**62 + 1, [1.0, -np.inf, np.nan], [4.0, np.nan, np.inf]),
    "weighted": (12.5, [0.1, 5e-324, -1e300], [1e-300, 0.0, 1e300]),
    "counts": ([3, 0, 2**53 + 1], [1.0, 0.0, 0.5], [2.0, 0.0, 7.0]),
    "weights": ([3.5, 0.25, 1e300], [1.0, 0.0, 0.5], [2.0, 0.0, 7.0]),
}


def batch(layer, seed):
    """Values that any machine makes, and float16 holds."""
    shape = {"BatchNorm1d": (6, CHANNELS), "BatchNorm2d": (4, CHANNELS, 3, 3), "BatchNorm3d": (4, 2, 2, 2, CHANNELS)}
    shape = shape.get(type(layer).__name__, (5, layer.num_features, 4))
    values = (np.arange(np.prod(shape)) * (7919 + seed) % 1009 - 504) / 64
    return values.reshape(shape).astype(layer.dtype)


def trained(name):
    """A layer with parameters of its own, after two batches, in evaluation mode."""
    cls, options = LAYERS[name]
    layer = getattr(cbn, cls)(**{"num_features": CHANNELS, **options})
    for k, parameter in enumerate((layer.weight, layer.bias)):
        if parameter is not None:
            parameter[...] = np.arange(layer.num_features) - k + 0.5
    if layer.frozen:
        layer.running_mean[...], layer.running_var[...] = 0.5, [0.0, 1e-30, 4.0]
    elif layer.convention.eps_place == "inside":
        layer(batch(layer, 1)), layer(batch(layer, 2))
    return layer.eval()


def bits(array):
    """An array in JSON."""
    return {"dtype": str(array.dtype), "shape": list(array.shape), "bits": array.tobytes().hex()}


def described(layer):
    """All that a file must bring back, and the layer's y of one batch."""
    state = layer.state_dict()
    options = {name: getattr(layer, name) for name in OPTIONS} | {"dtype": str(layer.dtype)}
    options |= {"convention": layer.convention.to_dict(), "metadata": {**state._metadata[""]}}
    arrays = {name: bits(value) for name, value in state.items()}
    return {"class": type(layer).__name__, "options": options, "state": arrays, "y": bits(layer(batch(layer, 3)))}


def record(folder):
    """Write the files and expected.json into a folder that has none."""
    folder.mkdir(parents=True)
    expected = {}
    for suffix in (".npz", ".safetensors"):
        for name in LAYERS:
            layer = trained(name)
            layer.save(folder / f"layer-{name}{suffix}")
            expected[f"layer-{name}{suffix}"] = described(layer)
        for name, values in MOMENTS.items():
            moments = cbn.Moments(*values)
            moments.save(folder / f"moments-{name}{suffix}")
            arrays = {key: bits(np.asarray(value)) for key, value in moments.to_dict().items()}
            expected[f"moments-{name}{suffix}"] = {"class": "Moments", "state": arrays}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / cbn.__version__)
    record(parser.parse_args().folder)
