"""torch_modules: cbn's drop-in modules against torch's own: single layers, training steps of networks, exactness."""

import argparse
import functools
import math

import numpy as np
import torch

import cbn  # before torch, so that its OpenMP runtime spins briefly
import cbn.interop.torch
import machine
import timing
from common import Progress, add_json_option, check, run_main, write_json
from networks import NETWORKS
from rows import RESNET50

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SMALL = [(16, 256, 14, 14), (32, 64, 8, 8), (4, 16, 7, 7)]  # where the time is the call's own
QUICK = [(8, 16, 14, 14), (4, 32, 7, 7)]
OFFSETS = (0, 1e2, 1e4, 1e6)  # in deviations


def pairs(make):
    """The same module twice: cbn's and torch's."""
    torch.manual_seed(0)
    ours = cbn.interop.torch.accelerate(make())
    torch.manual_seed(0)
    return {"cbn": ours, "torch": make()}


def layer_calls(shape, layout):
    """Forward and backward together, and inference, of one layer."""
    x = torch.randn(shape).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    dy = torch.randn(shape).contiguous(memory_format=LAYOUTS[layout])

    def train(module):
        x.grad = module.weight.grad = module.bias.grad = None
        module(x).backward(dy)

    @torch.no_grad()
    def infer(module):
        module(x)

    training = pairs(lambda: torch.nn.BatchNorm2d(shape[1]))
    serving = {name: module.eval() for name, module in pairs(lambda: torch.nn.BatchNorm2d(shape[1])).items()}
    yield "forward + backward", {name: functools.partial(train, module) for name, module in training.items()}
    yield "inference", {name: functools.partial(infer, module) for name, module in serving.items()}


def step_calls(network, layout, samples, pixels):
    """A training step of a network: forward, loss, backward, update."""
    x = torch.randn(samples, 3, pixels, pixels).contiguous(memory_format=LAYOUTS[layout])
    labels = torch.randint(0, 1000, (samples,))

    def step(model, optimizer):
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def call(model):
        model = model.to(memory_format=LAYOUTS[layout])
        return functools.partial(step, model, torch.optim.SGD(model.parameters(), 0.01, momentum=0.9))

    return {name: call(model) for name, model in pairs(NETWORKS[network]).items()}


def timed(title, calls, repeats):
    """Print one row, and return it: the medians, and the median ratio of neighbours in time."""
    samples = timing.measure(calls, repeats)
    ratio = timing.ratio(samples["torch"], samples["cbn"])
    print(
        f"{title:58}" + "".join(f"{1e3 * samples[name].median:10.2f}" for name in calls) + f"{ratio:8.2f}", flush=True
    )
    return {"row": title, "ratio": ratio, "seconds": {name: s.summary() for name, s in samples.items()}}


def measure_layers(shapes, repeats, progress):
    results = []
    for layout in LAYOUTS:
        ratios = {}
        for shape in shapes:
            for operation, calls in layer_calls(shape, layout):
                title = f"{operation}, {layout}, {'x'.join(map(str, shape))}"
                results.append(timed(title, calls, repeats) | {"operation": operation, "layout": layout})
                ratios.setdefault(operation, []).append(results[-1]["ratio"])
            progress.step()
        for operation, values in ratios.items():
            mean = math.prod(values) ** (1 / len(values))
            print(f"{f'{operation}, {layout}, geometric mean of these':78}{mean:8.2f}")
    return results


def measure_steps(options, progress):
    results = []
    for network in options.networks:
        for layout in LAYOUTS:
            calls = step_calls(network, layout, options.samples, options.pixels)
            shape = f"{options.samples}x3x{options.pixels}x{options.pixels}"
            results.append(timed(f"training step, {network}, {layout}, {shape}", calls, max(3, options.repeats // 3)))
            progress.step()
    return results


def measure_errors():
    """The largest error of y, in training, for values of deviation 1 about an offset."""
    results = []
    for layout, memory_format in LAYOUTS.items():
        for offset in OFFSETS:
            x = (torch.randn(16, 8, 56, 56) + offset).contiguous(memory_format=memory_format)
            exact = cbn.reference.batch_norm_forward(x.numpy())[0]
            modules = pairs(lambda: torch.nn.BatchNorm2d(8))
            errors = {n: float(np.abs(m(x).detach().numpy() - exact).max()) for n, m in modules.items()}
            title = f"largest error of y, {layout}, offset {offset:g}"
            print(f"{title:58}" + "".join(f"{error:10.1e}" for error in errors.values()))
            results.append({"row": title, "errors": errors})
    return results


def parse():
    parser = argparse.ArgumentParser(description=__doc__, epilog="benchmarks/README.md says how to read the table.")
    parser.add_argument("--threads", type=int, default=cbn.get_num_threads(), help="of both (%(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="samples of each layer (%(default)s); of steps a third")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS), help="default: all")
    parser.add_argument("--samples", type=int, default=16, help="in a batch of the networks (%(default)s)")
    parser.add_argument("--pixels", type=int, default=128, help="height and width of their images (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="small layers, one small network, 3 repeats")
    add_json_option(parser)
    options = parser.parse_args()
    check(options)
    if options.quick:
        options.repeats, options.networks, options.samples, options.pixels = 3, ["mobilenet_v2"], 2, 32
    options.shapes = [QUICK] if options.quick else [RESNET50, SMALL]
    return options


def main():
    options = parse()
    torch.set_num_threads(options.threads)
    facts = machine.machine()
    print(machine.headline(facts, options.threads))
    print(f"{'ms':58}{'cbn':>10}{'torch':>10}{'torch/cbn':>11}")
    progress = Progress([1] * len(LAYOUTS) * sum(map(len, options.shapes)) + [4] * len(LAYOUTS) * len(options.networks))
    results = []
    with cbn.num_threads(options.threads):
        for shapes in options.shapes:
            results += measure_layers(shapes, options.repeats, progress)
        results += measure_steps(options, progress) + measure_errors()
    write_json(options.json, {"machine": facts, "threads": options.threads, "results": results})


if __name__ == "__main__":
    run_main(main)
