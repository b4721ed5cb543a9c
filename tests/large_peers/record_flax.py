"""record_flax: writes what Flax' batch norms do to ../flax_recorded.json, for tests that run without Flax.

python record_flax.py [--check]       with --check it compares instead, and fails if Flax does something else now.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from flax import linen, nnx

FILE = Path(__file__).parent.parent / "flax_recorded.json"
CASES = {
    "plain": {},
    "other numbers": {"momentum": 0.75, "epsilon": 1e-3},
    "scale only": {"use_bias": False, "momentum": 0.5},
    "neither, channels first": {"use_bias": False, "use_scale": False, "axis": 1},
}


def batch(seed):
    return np.random.default_rng(seed).normal(1, 0.5, (5, 3, 2)).astype(np.float32)


def plain(tree):
    """Nested dicts of lists; JSON writes float32 numbers exactly."""
    if hasattr(tree, "items"):
        return {str(key): plain(value) for key, value in tree.items()}
    return np.asarray(tree).astype(float).tolist()


def of_linen(options):
    class Model(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            return linen.BatchNorm(use_running_average=not train, name="norm", **options)(x)

    model = Model()
    variables = model.init(jax.random.key(0), batch(0), True)
    if "params" in variables:
        changed = {name: value + np.arange(value.size) for name, value in variables["params"]["norm"].items()}
        variables = {**variables, "params": {"norm": changed}}
    for seed in (1, 2):
        y, moved = model.apply(variables, batch(seed), True, mutable=["batch_stats"])
        variables = {**variables, **moved}
    return {"variables": plain(variables), "y": plain(y), "evaluated": plain(model.apply(variables, batch(3), False))}


def of_nnx(options):
    norm = nnx.BatchNorm(batch(0).shape[options.get("axis", -1)], rngs=nnx.Rngs(0), **options)
    for parameter in filter(None, (norm.scale, norm.bias)):
        parameter[...] = parameter[...] + np.arange(parameter.shape[0])
    for seed in (1, 2):
        y = norm(batch(seed))
    variables = plain(nnx.to_pure_dict(nnx.state(norm)))
    norm.eval()
    return {"variables": variables, "y": plain(y), "evaluated": plain(norm(batch(3)))}


def leaves(tree):
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
    return [tree] if isinstance(tree, str) else np.ravel(tree).tolist()


def main():
    found = {
        "recipe": f"tests/large_peers/record_flax.py, flax {version('flax')}, jax {version('jax')}",
        "cases": [
            {"name": name, "options": options, "linen": of_linen(options), "nnx": of_nnx(options)}
            for name, options in CASES.items()
        ],
    }
    if "--check" in sys.argv:
        recorded = json.loads(FILE.read_text())
        for new, old in zip(found["cases"], recorded["cases"], strict=True):
            for kind in ("linen", "nnx"):
                assert new["options"] == old["options"]
                np.testing.assert_allclose(leaves(new[kind]), leaves(old[kind]), rtol=1e-5, atol=1e-6)
        print("Flax does what was recorded")
    else:
        FILE.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
