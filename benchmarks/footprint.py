"""footprint: what cbn costs before it computes anything, beside other libraries that normalize.

    python benchmarks/footprint.py --wheel dist/cbn-*.whl

Each library is installed into an empty environment of its own, with all that it needs. Then, in turn, fresh processes
start Python, import the library, and make one small call. Times are medians. Memory is what is resident at the end,
with Python and NumPy, and with as many threads as the library likes. Sizes are those of the installed files,
without the bytecode that Python makes of them. Needs a package index, some 2 GB of disk, and Linux.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import venv
from pathlib import Path

from common import Progress, UserError, add_json_option, check, run_main, write_json
from machine import machine

ONNX_MODEL = "model.onnx"
MAKE_X = "import numpy as np; x = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)"
# what is installed, what is imported, and the first call
LIBRARIES = {
    "NumPy alone": (["numpy"], "import numpy", "(x - x.mean(0)) / x.std(0)"),
    "cbn": ([], "import cbn", "cbn.BatchNorm(16).eval()(x)"),
    "scikit-learn": (
        ["scikit-learn"],
        "from sklearn.preprocessing import StandardScaler",
        "StandardScaler().fit_transform(x)",
    ),
    "ONNX Runtime": (
        ["onnxruntime"],
        "import onnxruntime",
        f"onnxruntime.InferenceSession({ONNX_MODEL!r}).run(None, {{'x': x}})",
    ),
    "PyTorch": (["torch==2.13.0", "numpy"], "import torch", "torch.nn.BatchNorm1d(16).eval()(torch.from_numpy(x))"),
}
CHILD = """
import json, time
start = time.perf_counter()
{imports}
imported = time.perf_counter()
{make_x}
begin = time.perf_counter()
{call}
end = time.perf_counter()
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps(dict(imports=imported - start, call=end - begin, resident=int(fields["VmRSS"].split()[0]) / 1e3)))
"""


def install(folder, packages):
    """The interpreter of a new environment with the packages, and the megabytes that they take."""
    venv.create(folder, with_pip=True)
    python = folder / "bin/python"
    (site,) = folder.glob("lib/python*/site-packages")
    before = set(site.iterdir())
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    new = [path for top in set(site.iterdir()) - before for path in (top, *top.rglob("*"))]
    return python, sum(path.stat().st_size for path in new if path.is_file() and path.suffix != ".pyc") / 1e6


def onnx_model(folder):
    """Write an ONNX model of one batch norm of 16 channels; an environment of its own makes it."""
    code = f"""
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
ones = [numpy_helper.from_array(np.ones(16, np.float32), name) for name in ("scale", "shift", "mean", "var")]
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 16]) for name in ("x", "y")]
node = helper.make_node("BatchNormalization", ["x", "scale", "shift", "mean", "var"], ["y"])
graph = helper.make_graph([node], "norm", values[:1], values[1:], ones)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), {ONNX_MODEL!r})
"""
    python, _ = install(folder / "onnx", ["onnx"])
    subprocess.run([python, "-c", code], check=True, cwd=folder)


def start(python, imports, call, folder):
    """What one fresh process says."""
    code = CHILD.format(imports=imports, call=call, make_x=MAKE_X)
    done = subprocess.run([python, "-c", code], check=True, cwd=folder, capture_output=True, text=True)
    return json.loads(done.stdout)


def rows(options, folder):
    """By library: megabytes on disk, and medians of the seconds and of the megabytes in memory."""
    installed = {}
    progress = Progress([10] * len(LIBRARIES) + [1] * len(LIBRARIES) * options.rounds)
    onnx_model(folder)
    for number, (name, (packages, _, _)) in enumerate(LIBRARIES.items()):
        installed[name] = install(folder / str(number), packages or [options.wheel])
        progress.step()
    found = {name: [] for name in LIBRARIES}
    for round in range(options.rounds + 1):
        for name, (_, imports, call) in LIBRARIES.items():
            said = start(installed[name][0], imports, call, folder)
            if round:  # the first one fills the disk's cache
                found[name].append(said)
                progress.step()
    return {
        name: {"disk": installed[name][1]} | {key: statistics.median(one[key] for one in of) for key in of[0]}
        for name, of in found.items()
    }


def table(found):
    """The rows as a table of Markdown."""
    lines = ["| | installed | besides NumPy | import | first call | resident |", "|---|---|---|---|---|---|"]
    for name, row in found.items():
        lines.append(
            f"| {name} | {row['disk']:.1f} MB | {row['disk'] - found['NumPy alone']['disk']:.1f} MB | "
            f"{1e3 * row['imports']:.0f} ms | {1e3 * row['call']:.1f} ms | {row['resident']:.0f} MB |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", required=True, help="the wheel of cbn")
    parser.add_argument("--rounds", type=int, default=9, help="processes for each library (default 9)")
    add_json_option(parser)
    options = parser.parse_args()
    check(options)
    if not Path(options.wheel).is_file():
        raise UserError(f"--wheel must be a file; got {options.wheel}")
    options.wheel = os.path.abspath(options.wheel)
    with tempfile.TemporaryDirectory() as folder:
        found = rows(options, Path(folder))
    print(table(found))
    write_json(options.json, {"machine": machine(), "libraries": found})
    return 0


if __name__ == "__main__":
    run_main(main)
