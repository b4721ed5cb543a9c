"""small_calls: what a call costs besides the work: on one image of 16 channels of 7x7, and at the import."""

import argparse
import functools
import statistics
import subprocess
import sys
import time

import numpy as np

import cbn
import contenders
import machine
import timing
from common import add_json_option, check, run_main, write_json

SHAPE = (1, 16, 7, 7)
REPEATS = 25
IMPORTS = 15
YARDSTICK = "np.add(x, x, out=y)"
TARGETS = {"cbn.batch_norm(x, ..., out=y)": 2, "layer(x)": 4}  # in units of the yardstick
IMPORT_TARGET = 30  # milliseconds more than importing numpy


def calls():
    """The calls by name; each is a partial object, so that all have the same overhead."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, *SHAPE), np.float32)
    y = np.empty_like(x)
    weight, bias, mean, var = np.abs(rng.standard_normal((4, SHAPE[1]), np.float32))
    layer = cbn.BatchNorm(SHAPE[1]).eval()
    _, batch_mean, inv_std = cbn.batch_norm_forward(x)
    return {
        YARDSTICK: functools.partial(np.add, x, x, out=y),
        "cbn.batch_norm(x, ..., out=y)": functools.partial(cbn.batch_norm, x, mean, var, weight, bias, out=y),
        "cbn.batch_norm(x, ...)": functools.partial(cbn.batch_norm, x, mean, var, weight, bias),
        "layer(x)": functools.partial(layer, x),
        "layer(x, out=y)": functools.partial(layer, x, out=y),
        "cbn.batch_norm_forward(x, ..., out=y)": functools.partial(cbn.batch_norm_forward, x, weight, bias, out=y),
        "cbn.batch_norm_backward(..., out=y)": functools.partial(
            cbn.batch_norm_backward, dy, x, batch_mean, inv_std, weight, out=y
        ),
    } | (torch_calls(x, mean, var, weight, bias) if not contenders.why_missing("torch") else {})


def torch_calls(x, mean, var, weight, bias):
    import torch

    x, mean, var, weight, bias = map(torch.from_numpy, (x, mean, var, weight, bias))
    module = torch.nn.BatchNorm2d(SHAPE[1]).eval()
    torch.set_grad_enabled(False)
    return {
        "torch functional.batch_norm(x, ...)": functools.partial(
            torch.nn.functional.batch_norm, x, mean, var, weight, bias
        ),
        "torch module(x)": functools.partial(module, x),
    }


def seconds_to_import(module):
    """How long a fresh interpreter takes to import a module, start and end of the process included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - start


def measure_imports():
    """The medians of importing numpy, cbn, and of the difference between neighbours in time."""
    seconds_to_import("cbn")  # from disk into memory
    pairs = [(seconds_to_import("numpy"), seconds_to_import("cbn")) for _ in range(IMPORTS)]
    numpy, own = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"numpy": numpy, "cbn": own, "more": statistics.median(b - a for a, b in pairs)}


def verdict(value, target):
    return f"target {target:g}  {'met' if value <= target else 'MISSED'}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_json_option(parser)
    options = parser.parse_args()
    check(options)
    facts = machine.machine()
    print(machine.headline(facts, 1))
    with cbn.num_threads(1):
        samples = timing.measure(calls(), REPEATS)
    print(f"{'one call, x of shape ' + str(SHAPE):40}{'us':>8}{'factor':>8}")
    factors = {name: timing.ratio(s, samples[YARDSTICK]) for name, s in samples.items()}
    for name, s in samples.items():
        judged = "  " + verdict(factors[name], TARGETS[name]) if name in TARGETS else ""
        print(f"{name:40}{1e6 * s.median:8.2f}{factors[name]:8.2f}{judged}")
    imports = measure_imports()
    print(f"import numpy {1e3 * imports['numpy']:.1f} ms, import cbn {1e3 * imports['cbn']:.1f} ms")
    more = 1e3 * imports["more"]
    print(f"import cbn over import numpy: {more:.1f} ms  {verdict(more, IMPORT_TARGET)}")
    seconds = {name: s.summary() for name, s in samples.items()}
    write_json(options.json, {"machine": facts, "seconds": seconds, "factors": factors, "imports": imports})


if __name__ == "__main__":
    run_main(main)
