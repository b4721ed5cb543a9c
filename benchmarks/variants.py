"""variants: what each option costs: its time over that of the plain float32 call, and over the streaming limit."""

import argparse
import importlib.util
import math
from dataclasses import dataclass, field
from functools import partial

import numpy as np

import cbn
import limit
import machine
import timing
from common import Progress, add_json_option, check, run_main, write_json
from problem import allocate

SHAPE = (32, 256, 28, 28)
IMAGES = (32, 224, 224, 3)
ARRAYS = {"forward": 2, "inference": 2, "backward": 3}  # that a plain call has to move


@dataclass
class Variant:
    """One call; `arrays` are those of x's size that it has to move, in units of float32 arrays."""

    operation: str
    name: str
    arrays: float
    call: object
    peer: object = None
    limits: dict = field(default_factory=dict)  # calls that move the same arrays, if there are such


def placed(values):
    """A copy that starts on a cache line."""
    array = allocate(values.shape, values.dtype)
    array[...] = values
    return array


class Arrays:
    """What all variants of one layout and dtype work on."""

    def __init__(self, shape, axis, dtype, threads):
        samples, self.channels, *plane = shape
        shape = (samples, self.channels, *plane) if axis == 1 else (samples, *plane, self.channels)
        rng = np.random.default_rng(0)
        self.x, self.dy, self.residual = (
            placed(rng.standard_normal(shape, np.float32).astype(dtype)) for _ in range(3)
        )
        self.out, self.dresidual, self.threads = placed(np.zeros_like(self.x)), placed(np.zeros_like(self.x)), threads
        self.weight, self.bias = rng.standard_normal((2, self.channels), np.float32)
        self.mean, self.var = np.zeros(self.channels, np.float32), np.ones(self.channels, np.float32)
        self.mask = rng.random((samples, *plane)) < 0.8
        self.padding = np.arange(math.prod(plane)).reshape(plane) < 0.8 * math.prod(plane)
        self.samples = rng.random(samples)
        self.common = {"axis": axis, "num_threads": threads}
        self.y, self.batch_mean, self.inv_std = cbn.batch_norm_forward(self.x, axis=axis)
        self.y = placed(self.y)

    def limits(self, arrays):
        """Calls of the limit that move so many arrays of this dtype: a copy or an add."""
        operation = {2: "forward", 3: "backward"}.get(arrays * 4 / self.x.itemsize)
        return {} if operation is None else limit.calls(self, operation)


def forward(a, **options):
    return partial(cbn.batch_norm_forward, a.x, a.weight, a.bias, out=a.out, **a.common, **options)


def inference(a, **options):
    return partial(cbn.batch_norm, a.x, a.mean, a.var, a.weight, a.bias, out=a.out, **a.common, **options)


def backward(a, out=None, **options):
    arguments = (a.dy, a.x, a.batch_mean, a.inv_std, a.weight)
    return partial(cbn.batch_norm_backward, *arguments, out=a.out if out is None else out, **a.common, **options)


def of_dtype(a, name, share, peers):
    """The three operations of another dtype."""
    for operation, call in (("forward", forward), ("inference", inference), ("backward", backward)):
        arrays = share * ARRAYS[operation]
        yield Variant(operation, name, arrays, call(a), peers.get(operation), a.limits(arrays))


def of_options(a, peers):
    """Everything in float32 that is not plain."""
    for operation, name, arrays, call, *peer in calls_of_options(a):
        yield Variant(operation, name, arrays, call, *map(peers.get, peer), limits=a.limits(arrays))


def calls_of_options(a):
    """Operation, name, arrays, call, and the name of a peer."""
    pair = (a.out, a.dresidual)
    act, leaky = {"activation": "relu"}, {"activation": "leaky_relu"}
    both = {**act, "residual": a.residual}
    yield "forward", "relu", 2, forward(a, **act), "relu"
    yield "forward", "leaky_relu", 2, forward(a, **leaky)
    yield "forward", "residual, relu", 3, forward(a, **both), "residual"
    yield "inference", "relu", 2, inference(a, **act), "inference relu"
    yield "inference", "residual, relu", 3, inference(a, **both), "inference residual"
    yield "backward", "relu", 4, backward(a, **act, y=a.y)
    yield "backward", "leaky_relu", 4, backward(a, **leaky, y=a.y)
    yield "backward", "residual, relu", 5, backward(a, pair, **act, y=a.y, residual=True)
    for name, mask in (("mask, scattered", a.mask), ("mask, the end", a.padding)):
        yield "forward", name, 2, forward(a, mask=mask)
        yield "backward", name, 3, backward(a, mask=mask)
    yield "forward", "sample_weight", 2, forward(a, sample_weight=a.samples)
    yield "backward", "sample_weight", 3, backward(a, sample_weight=a.samples)


def of_layers(a):
    """Training calls of layers; the first is without options."""
    options = {
        "layer": {},
        "layer, nonfinite=raise": {"nonfinite": "raise"},
        "layer, nonfinite=skip": {"nonfinite": "skip"},
        "layer, frozen": {"frozen": True},
        "layer, virtual_batch_size=8": {"virtual_batch_size": 8},
        "layer, renorm": {"renorm": True},
        "layer, zero_debias": {"zero_debias": True},
    }
    for name, arguments in options.items():
        layer = cbn.BatchNorm(a.channels, axis=a.common["axis"], **arguments)
        yield Variant("forward", name, 2, partial(layer, a.x, out=a.out), limits=a.limits(2))


def of_images(size, threads):
    """uint8 images, NHWC, to normalized float32, NCHW: a quarter of x's bytes read, y written."""
    images = np.random.default_rng(0).integers(0, 256, IMAGES, np.uint8)
    out = np.empty((IMAGES[0], IMAGES[3], *IMAGES[1:3]), np.float32)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    share = 1.25 * out.size / size
    call = partial(cbn.normalize_images, images, mean, std, out=out, num_threads=threads)
    yield Variant("inference", "uint8 images to NCHW", share, call, torch_images(images, mean, std))


def torch_images(images, mean, std):
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    images, (mean, std) = torch.from_numpy(images), torch.tensor([mean, std]).reshape(2, 3, 1, 1)
    return lambda: images.permute(0, 3, 1, 2).contiguous().float().div_(255).sub_(mean).div_(std)


def torch_calls(a, dtype):
    """What torch takes for the same, in as many calls as it needs; channels_last for NHWC."""
    import torch

    torch.set_num_threads(a.common["num_threads"])
    torch.set_grad_enabled(False)
    types = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

    def tensor(array):
        array = np.moveaxis(array.astype(np.float32), a.common["axis"], 1)
        return torch.from_numpy(array).to(types[dtype])

    x, dy, residual = tensor(a.x), tensor(a.dy), tensor(a.residual)
    weight, bias, mean, var = map(torch.from_numpy, (a.weight, a.bias, a.mean, a.var))
    saved, inv_std = (torch.from_numpy(v.astype(np.float32)) for v in (a.batch_mean, a.inv_std))
    norm = torch.nn.functional.batch_norm
    train = partial(norm, x, None, None, weight, bias, True)
    evaluate = partial(norm, x, mean, var, weight, bias)
    grad = torch.ops.aten.native_batch_norm_backward
    return {
        "forward": train,
        "inference": evaluate,
        "backward": partial(grad, dy, x, weight, None, None, saved, inv_std, True, 1e-5, [True] * 3),
        "relu": lambda: train().relu_(),
        "residual": lambda: train().add_(residual).relu_(),
        "inference relu": lambda: evaluate().relu_(),
        "inference residual": lambda: evaluate().add_(residual).relu_(),
    }


def variants(shape, axis, threads, halves, peers):
    plain = Arrays(shape, axis, np.float32, threads)
    calls = torch_calls(plain, "float32") if peers else {}
    yield from of_dtype(plain, "plain", 1, calls)
    yield from of_options(plain, calls)
    yield from of_layers(plain)
    ones = np.ones(plain.channels, np.float32)
    double = (plain.dy, ones, ones, plain.dy, plain.x, plain.batch_mean, plain.inv_std, plain.weight)
    yield Variant("backward", "double backward", 5, partial(cbn.batch_norm_double_backward, *double, **plain.common))
    if axis == -1:
        yield from of_images(plain.x.size, threads)
    for dtype in halves:
        half = Arrays(shape, axis, dtype, threads)
        name = np.dtype(dtype).name
        yield from of_dtype(half, name, 0.5, torch_calls(half, name) if peers else {})


def measured(variant, plain, repeats):
    calls = {"plain": plain.call, "variant": variant.call}
    if variant.peer:
        calls["torch"] = variant.peer
    samples = timing.measure({**calls, **variant.limits}, repeats)
    row = {"operation": variant.operation, "variant": variant.name, "seconds": samples["variant"].median}
    row |= {"over_plain": timing.ratio(samples["variant"], samples["plain"])}
    row |= {"traffic_over_plain": variant.arrays / ARRAYS[variant.operation]}
    limits = [timing.ratio(samples["variant"], samples[name]) for name in variant.limits]
    row["over_limit"] = max(limits, default=None)
    row["torch"] = timing.ratio(samples["torch"], samples["variant"]) if variant.peer else None
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=cbn.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--shape", type=int, nargs=4, default=SHAPE, metavar=("N", "C", "H", "W"))
    parser.add_argument("--quick", action="store_true", help="one repeat, to see that it runs; its times mean nothing")
    add_json_option(parser)
    options = parser.parse_args()
    check(options)
    cbn.set_num_threads(options.threads)  # of the layers, too
    halves = [np.float16]
    if importlib.util.find_spec("ml_dtypes"):
        import ml_dtypes

        halves.append(ml_dtypes.bfloat16)
    peers = importlib.util.find_spec("torch") is not None
    rows = []
    shape = "x".join(map(str, options.shape))
    print(f"x is {shape} float32, {options.threads} threads; torch is torch's time over cbn's")
    print(f"{'layout':7}{'operation':11}{'variant':28}{'ms':>8}{'xplain':>8}{'traffic':>9}{'xlimit':>8}{'torch':>7}")
    for layout, axis in (("NCHW", 1), ("NHWC", -1)):
        some = list(variants(options.shape, axis, options.threads, halves, peers))
        plain = {v.operation: v for v in some if v.name == "plain"}
        progress = Progress([1] * len(some))
        for variant in some:
            row = {
                "layout": layout,
                **measured(variant, plain[variant.operation], 1 if options.quick else options.repeats),
            }
            progress.step()
            rows.append(row)
            xlimit, torch = ("-" if row[k] is None else f"{row[k]:.2f}" for k in ("over_limit", "torch"))
            line = f"{layout:7}{row['operation']:11}{row['variant']:28}{1e3 * row['seconds']:8.2f}"
            line += f"{row['over_plain']:8.2f}{row['traffic_over_plain']:9.2f}"
            print(f"{line}{xlimit:>8}{torch:>7}", flush=True)
    found = {"machine": machine.machine(), "threads": options.threads, "shape": options.shape, "rows": rows}
    write_json(options.json, found)


if __name__ == "__main__":
    run_main(main)
