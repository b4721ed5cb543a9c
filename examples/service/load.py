"""load: the service on each engine under the load of wrk, in turn and several times; medians as JSON and as a table.

    python load.py --out results

Needs wrk on the PATH, torch, onnxruntime and onnx. Each engine gets one thread in each worker. Each round starts every
engine once, in a new order, so that what else the machine does falls on all of them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# read when the libraries are loaded
os.environ.update(dict.fromkeys(("CBN_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import engines
import numpy as np
from loaded import HERE, WORKERS, Loaded, Workload

import cbn

BATCHES = (1, 64)
PACKAGES = ("numpy", "torch", "onnxruntime", "gunicorn", "uvicorn", "starlette", "pydantic")


def workloads(folder: Path) -> list[Workload]:
    """JSON and raw arrays, single images and batches; and one client alone, whose latency is no queue's."""
    made = []
    for batch in BATCHES:
        images = np.random.default_rng(batch).integers(0, 256, (batch, 8, 8), np.uint8)
        text, raw = folder / f"{batch}.json", folder / f"{batch}.raw"
        text.write_text(json.dumps({"images": images.tolist()}))
        raw.write_bytes(images.tobytes())
        if batch == 1:
            made.append(Workload("JSON, one client", 1, 1, text, "application/json", "application/json"))
        made.append(Workload("JSON", batch, 8, text, "application/json", "application/json"))
        made.append(Workload("raw", batch, 8, raw, "application/octet-stream", "application/x-npy"))
    return made


def alone(model: Path, calls: int) -> dict[str, dict[str, float]]:
    """Microseconds of the network without the service, the engines in turn."""
    predict = {name: engines.load(name, model) for name in engines.ENGINES}
    found: dict[str, dict[str, float]] = {name: {} for name in predict}
    for batch in BATCHES:
        images = np.random.default_rng(batch).integers(0, 256, (batch, 8, 8), np.uint8)
        times: dict[str, list[float]] = {name: [] for name in predict}
        for _ in range(calls):
            for name, call in predict.items():
                start = time.perf_counter()
                call(images)
                times[name].append(time.perf_counter() - start)
        for name, seconds in times.items():
            found[name][str(batch)] = statistics.median(seconds) * 1e6
    return found


def measure(model: Path, rounds: int, seconds: float, folder: Path) -> list[dict[str, Any]]:
    """One record for each start of each engine."""
    records, names = [], list(engines.ENGINES)
    loads = workloads(folder)
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            print(f"round {k + 1} of {rounds}: {name}", end="", flush=True)
            with Loaded(name, model) as service:
                figures = {}
                for load in loads:
                    figures[f"{load.name}, batch {load.batch}"] = service.under(load, seconds)
                    print(".", end="", flush=True)
                records.append(
                    {"engine": name, "cold_start": service.cold_start, "memory": service.memory(), "loads": figures}
                )
            print(f" {figures['JSON, batch 1']['per_second']:.0f} predictions of one image per second", flush=True)
    return records


def median(records: list[dict[str, Any]], engine: str, *keys: str) -> float:
    """The median over an engine's records of what stands under these keys."""
    values: list[Any] = [record for record in records if record["engine"] == engine]
    for key in keys:
        values = [value[key] for value in values]
    return statistics.median(values)


def table(records: list[dict[str, Any]], network: dict[str, dict[str, float]]) -> str:
    """Medians as Markdown, the engines beside each other."""
    names = list(engines.ENGINES)

    def row(label: str, form: str, *keys: str) -> str:
        return f"| {label} | " + " | ".join(form.format(median(records, name, *keys)) for name in names) + " |"

    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for load in records[0]["loads"]:
        lines.append(row(f"{load}: requests per second", "{:,.0f}", "loads", load, "per_second"))
        lines.append(row("p50, ms", "{:.2f}", "loads", load, "p50_ms"))
        lines.append(row("p99, ms", "{:.2f}", "loads", load, "p99_ms"))
    lines.append(row("cold start, s", "{:.2f}", "cold_start"))
    lines.append(row("memory of a worker: proportional, MB", "{:.0f}", "memory", "pss"))
    lines.append(row("memory of a worker: its own alone, MB", "{:.0f}", "memory", "uss"))
    lines.append(row("memory of the service, MB", "{:.0f}", "memory", "service"))
    for batch in BATCHES:
        cells = " | ".join(f"{network[name][str(batch)]:.0f}" for name in names)
        lines.append(f"| network without service, batch {batch}, µs | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=HERE / "model.npz", help="default %(default)s")
    parser.add_argument("--out", type=Path, required=True, help="folder for load.json and load.md")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    args = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk must be on the PATH; got none (Debian has a package)")
    if not args.model.exists():
        parser.error(f"--model must be a file, which train.py writes; got {args.model}")
    rounds, seconds, calls = (1, 1, 100) if args.quick else (5, 5, 3000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = shutil.copy(args.model, folder)
        Path(model).with_suffix(".onnx").write_bytes(engines.onnx_model(model).SerializeToString())
        load_before = os.getloadavg()[0]
        records = measure(Path(model), rounds, seconds, folder)
        network = alone(Path(model), calls)
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    setting = {
        **cbn.runtime.config(),
        **versions,
        "workers": WORKERS,
        "rounds": rounds,
        "seconds": seconds,
        "load_average_before": load_before,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    answer = {"setting": setting, "records": records, "network_us": network}
    (args.out / "load.json").write_text(json.dumps(answer, indent=1) + "\n")
    (args.out / "load.md").write_text(table(records, network))
    print(table(records, network))
    return 0


if __name__ == "__main__":
    sys.exit(main())
