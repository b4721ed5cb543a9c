"""training_forward: cbn's training forward pass against torch's and against a copy, interleaved in one process."""

import argparse
import time

import numpy as np

import cbn

SHAPES = [(32, 64, 112, 112), (32, 256, 56, 56), (32, 512, 28, 28), (32, 2048, 7, 7)]  # ResNet-50, batch 32


def contenders(shape, threads):
    """Functions of no argument, by name; all of them write the same y."""
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    y = np.zeros_like(x)
    channels = shape[1]
    weight, bias = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    functions = {"cbn": lambda: cbn.batch_norm_forward(x, weight, bias, out=y, num_threads=threads)}
    try:
        import torch
    except ImportError:
        functions["copy"] = lambda: np.copyto(y, x)
        return functions, y
    torch.set_num_threads(threads)
    tx, ty, tw, tb = map(torch.from_numpy, (x, y, weight, bias))
    saved = torch.empty(channels), torch.empty(channels)
    functions["torch"] = lambda: torch.native_batch_norm(tx, tw, tb, None, None, True, 0.1, 1e-5, out=(ty, *saved))
    functions["copy"] = lambda: ty.copy_(tx)
    return functions, y


def measure(functions, repeats):
    """Seconds of each call: an array of `repeats` for each name."""
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            function()
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=cbn.get_num_threads())
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()
    cbn.show_config()
    print(f"\ntraining forward, float32, NCHW, out=, {options.threads} threads, median of {options.repeats}")
    print(f"{'shape':22}{'cbn ms':>8}{'GB/s':>7}{'torch ms':>10}{'copy ms':>9}{'torch/cbn':>11}{'cbn/copy':>10}")
    for shape in SHAPES:
        functions, y = contenders(shape, options.threads)
        results = {}
        for name in functions:
            if name != "copy":
                functions[name]()
                results[name] = y.copy()
        for name in results:
            np.testing.assert_allclose(results[name], results["cbn"], rtol=0, atol=2e-5)
        times = measure(functions, options.repeats)
        ms = {name: f"{np.median(values) * 1e3:.2f}" for name, values in times.items()}
        rate = 2 * y.nbytes / np.median(times["cbn"]) / 1e9
        speedup = f"{np.median(times['torch'] / times['cbn']):.2f}" if "torch" in times else "-"
        print(
            f"{shape!s:22}{ms['cbn']:>8}{rate:7.1f}{ms.get('torch', '-'):>10}{ms['copy']:>9}{speedup:>11}"
            f"{np.median(times['cbn'] / times['copy']):10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
