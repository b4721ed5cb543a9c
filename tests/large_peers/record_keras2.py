"""record_keras2: writes what Keras 2 (tf_keras) does to ../keras2_recorded.json, for tests that run without it.

python record_keras2.py [--check]     with --check it compares instead, and fails if Keras 2 does something else now.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tf_keras

FILE = Path(__file__).parent.parent / "keras2_recorded.json"
CASES = [
    ((5, 2, 2, 3), {"momentum": 0.75}),
    ((5, 2, 2, 3), {"momentum": 0.75, "fused": False}),
    ((5, 3), {"momentum": 0.5, "epsilon": 0.01, "center": False}),
]


def batch(seed, shape):
    return np.random.default_rng(seed).normal(1, 0.5, shape).astype(np.float32)


def of(shape, options):
    layer = tf_keras.layers.BatchNormalization(**options)
    for seed in (1, 2):
        layer(batch(seed, shape), training=True)
    names = ("axis", "momentum", "epsilon", "center", "scale", "trainable")
    config = {name: layer.get_config()[name] for name in names}
    return {
        "shape": shape,
        "fused": bool(layer.fused),
        "config": {**config, "axis": list(config["axis"])},
        "weights": [weight.astype(float).tolist() for weight in layer.get_weights()],
        "evaluated": layer(batch(3, shape), training=False).numpy().astype(float).tolist(),
    }


def main():
    recipe = f"tests/large_peers/record_keras2.py, tf_keras {tf_keras.__version__}"
    found = {"recipe": recipe, "cases": [of(*case) for case in CASES]}
    if "--check" not in sys.argv:
        FILE.write_text(json.dumps(found) + "\n")
        return
    for new, old in zip(found["cases"], json.loads(FILE.read_text())["cases"], strict=True):
        assert new["config"] == old["config"] and new["fused"] == old["fused"]
        for got, wanted in zip([*new["weights"], new["evaluated"]], [*old["weights"], old["evaluated"]], strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    print("Keras 2 does what was recorded")


if __name__ == "__main__":
    main()
